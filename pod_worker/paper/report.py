"""The report of a run as one HTML file that opens without a network.

Everything is escaped; pictures are data URIs in `img` elements, where a browser runs no script of an SVG.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pod_worker.paper.plots import IMAGE_LIMIT_BYTES
from pod_worker.paper.typesetting.bibliography import Citation
from pod_worker.paper.typesetting.figures import PaperFigure
from pod_worker.paper.typesetting.latex import read_plain_file
from pod_worker.paper.verdict import SCALES, PaperCheck, ReviewVerdict, StoredReview

TREE_LIMIT_BYTES = 8 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportTable:
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """What the page shows, as plain texts."""

    run_id: str
    title: str
    task: str
    models: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()  # scripted, self-reported, sandbox layers …
    abstract: str = ""
    figures_of_merit: tuple[tuple[str, str], ...] = ()  # (name, value) of the cards
    tables: tuple[ReportTable, ...] = ()  # results, ablations, cost by operation …
    figures: tuple[PaperFigure, ...] = ()
    checks: tuple[PaperCheck, ...] = ()
    reviews: tuple[StoredReview, ...] = ()
    verdict: ReviewVerdict | None = None
    references: tuple[str, ...] = ()
    rerun: tuple[str, ...] = ()  # commands


def render_report(report: RunReport, figures: Path, tree_svg: str = "") -> str:
    """The page.

    `figures` is the folder of the previews, `tree_svg` the picture of the search.
    """
    previews = (
        (figure, read_plain_file(figures / figure.preview, IMAGE_LIMIT_BYTES)) for figure in report.figures
    )
    images = [(figure, _data_uri("image/png", data)) for figure, data in previews if data]
    svg = tree_svg.encode()
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template("report.html").render(
        report=report,
        images=images,
        tree=_data_uri("image/svg+xml", svg) if 0 < len(svg) <= TREE_LIMIT_BYTES else "",
        scales=list(SCALES),
    )


def reference_text(citation: Citation) -> str:
    """One line for a page: authors, title, venue, year."""
    work = citation.work
    names = ", ".join(work.authors[:4]) + (" et al." if len(work.authors) > 4 else "")
    return f"{names}. {work.title}. {', '.join(part for part in (work.venue, str(work.year or '')) if part)}"


def _data_uri(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
