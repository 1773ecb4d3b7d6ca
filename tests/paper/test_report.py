"""The report is one file that opens without a network and shows hostile texts as texts."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

from pod_worker.paper.evidence.results import read_json
from pod_worker.paper.report import ReportTable, RunReport, render_report
from pod_worker.paper.typesetting.figures import FigureSet, PaperFigure
from pod_worker.paper.verdict import decide
from tests.paper.test_verdict import FAILS, HOLDS, make_answer, make_review

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
SVG = '<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def parse(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    return tags


def make_report(text: str, figures: tuple[PaperFigure, ...]) -> RunReport:
    reviews = (make_review(make_answer(Summary=text, Overall=7)), make_review({}, 1))
    checks = (HOLDS, FAILS)
    return RunReport(
        run_id=text,
        title=text,
        task=text,
        models=(text,),
        notices=(text,),
        abstract=text,
        figures_of_merit=((text, text),),
        tables=(ReportTable(title=text, columns=(text, text), rows=((text, text),), caption=text),),
        figures=figures,
        checks=checks,
        reviews=reviews,
        verdict=decide(reviews, checks),
        references=(text,),
        rerun=(text,),
    )


def test_every_text_is_escaped(drawn: Path) -> None:
    figures = (PaperFigure(label="l", caption=HOSTILE, image="stages.pdf", preview="stages.png", source=HOSTILE),)
    tags = parse(render_report(make_report(HOSTILE, figures), drawn / "figures", SVG))
    assert "script" not in {tag for tag, _ in tags.found}
    assert not any(name.startswith("on") for _, attributes in tags.found for name in attributes)
    assert tags.text.count(HOSTILE) >= 12


def test_nothing_is_loaded(drawn: Path) -> None:
    figures = read_json(drawn / "figures.json", FigureSet).figures
    tags = parse(render_report(make_report("text", figures), drawn / "figures", SVG))
    sources = [attributes["src"] for tag, attributes in tags.found if "src" in attributes]
    assert len(sources) == 1 + len(figures)
    assert all(source and source.startswith("data:image/") for source in sources)
    assert not any(tag == "link" or "href" in attributes for tag, attributes in tags.found)
    assert base64.b64decode(str(sources[0]).partition(",")[2]).decode() == SVG
    policy = next(attributes["content"] for tag, attributes in tags.found if "http-equiv" in attributes)
    assert str(policy).startswith("default-src 'none'")


def test_checks_reviews_and_the_verdict_are_shown(tmp_path: Path) -> None:
    page = render_report(make_report("text", ()), tmp_path)
    text = re.sub(r"\s+", " ", parse(page).text)
    for part in (
        "✓ holds",
        "✗ does not hold",
        "Overall 7",
        "not valid",
        "fail",
        "mean Overall 7.00",
        "Soundness 2",
    ):
        assert part in text


def test_a_run_without_a_paper_has_a_report(tmp_path: Path) -> None:
    page = render_report(RunReport(run_id="r", title="t", task="digits"), tmp_path)
    assert "not reviewed" in page
    assert "<img" not in page
