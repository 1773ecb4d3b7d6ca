"""Deterministic checks of a written paper, made before any review is paid.

They read the files of the paper's folder again and compare them with the recorded results. A changed digit, a
reference that no search answered, a missing figure: each makes a check fail, and a paper with a failed check
cannot pass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pod_worker.core.execution import CodeRunner
from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.research.idea import Idea
from pod_worker.core.research.literature import LiteratureSearch, is_same_work
from pod_worker.core.stage import StopSignal
from pod_worker.paper.citations import ReferenceList
from pod_worker.paper.evidence.numbers import RecordedNumber, build_numbers
from pod_worker.paper.evidence.results import RecordedResults, read_json, write_json
from pod_worker.paper.plots import IMAGE_LIMIT_BYTES, image_problem
from pod_worker.paper.sources import (
    PaperSources,
    citation_problems,
    document_parts,
    number_problems,
    reference_problems,
)
from pod_worker.paper.typesetting.bibliography import Citation, bibtex, unresolved
from pod_worker.paper.typesetting.document import DocumentParts, render, used_citations
from pod_worker.paper.typesetting.figures import FigureSet
from pod_worker.paper.typesetting.latex import PDF_LIMIT_BYTES, LatexTools, read_bounded, read_pdf, read_plain_file
from pod_worker.paper.typesetting.latex_text import sanitize
from pod_worker.paper.typesetting.tables import flagged_ablations
from pod_worker.paper.verdict import PaperCheck
from pod_worker.paper.writing import WrittenPaper

SOURCE_LIMIT_BYTES = 4 * 2**20
FINDINGS_LIMIT = 30  # of one check


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedPaper:
    checks: tuple[PaperCheck, ...]
    text: str  # of the PDF; empty where it cannot be read
    paper: WrittenPaper
    parts: DocumentParts

    @property
    def hold(self) -> bool:
        return all(check.holds for check in self.checks)


def check_paper(
    idea: Idea,
    results: RecordedResults,
    folder: Path,
    tools: LatexTools,
    runner: CodeRunner,
    stop: StopSignal,
    page_limit: int,
    search: LiteratureSearch | None = None,
) -> CheckedPaper:
    """Check the paper in the folder and write checks.json.

    With a `search`, every cited work is looked up again. Raises RunError(INVALID_INPUT) when the folder has no
    paper.
    """
    paper = read_json(folder / "paper.json", WrittenPaper)
    sources = PaperSources(
        idea=idea,
        results=results,
        figures=read_json(folder / "figures.json", FigureSet).figures,
        references=read_json(folder / "references.json", ReferenceList),
        page_limit=page_limit,
        notices=paper.notices,
    )
    parts = document_parts(sources, paper.draft, paper.is_plain)
    text, pdf = _check_pdf(folder, tools, runner, stop)
    checks = (
        _check_numbers(parts, sources, folder),
        _check_source(parts, folder),
        _check_figures(parts, folder),
        _check(
            "references",
            "References to figures and tables resolve",
            [*reference_problems(parts), *paper.undefined],
        ),
        _check_citations(parts, sources.references, folder, search),
        _check_ablations(parts, results),
        _check_latex(paper),
        _check_pages(paper, page_limit),
        pdf,
    )
    write_json(folder / "checks.json", checks)
    return CheckedPaper(checks=checks, text=text, paper=paper, parts=parts)


def _check(name: str, title: str, findings: Iterable[str]) -> PaperCheck:
    found = tuple(dict.fromkeys(findings))
    return PaperCheck(name=name, title=title, holds=not found, findings=found[:FINDINGS_LIMIT])


def _check_numbers(parts: DocumentParts, sources: PaperSources, folder: Path) -> PaperCheck:
    findings = list(number_problems(parts.draft, parts, sources))
    recorded = build_numbers(sources.results)
    stored = read_json(folder / "numbers.json", tuple[RecordedNumber, ...])
    if stored != recorded:
        known = {number.key: number for number in recorded}
        changed = [number.key for number in stored if known.get(number.key) != number]
        missing = [key for key in known if key not in {number.key for number in stored}]
        findings.append(f"the ledger differs from the recorded results: {', '.join([*changed, *missing][:10])}")
    return _check("numbers", "Every number is from the ledger of recorded results", findings)


def _check_source(parts: DocumentParts, folder: Path) -> PaperCheck:
    source = read_bounded(folder / "paper.tex", SOURCE_LIMIT_BYTES)
    findings = [] if source == render(parts) else [_first_difference(source, render(parts))]
    return _check("source", "paper.tex follows from the draft and the ledger", findings)


def _first_difference(stored: str, expected: str) -> str:
    for number, (left, right) in enumerate(zip(stored.splitlines(), expected.splitlines(), strict=False), 1):
        if left != right:
            return f"line {number} of paper.tex is {left[:120]!r}, not {right[:120]!r}"
    return "paper.tex has other lines than the draft and the ledger give"


def _check_figures(parts: DocumentParts, folder: Path) -> PaperCheck:
    findings = []
    for figure in parts.referenced_figures:
        if problem := image_problem(read_plain_file(folder / "figures" / figure.preview, IMAGE_LIMIT_BYTES + 1)):
            findings.append(f"figure {figure.label}: {figure.preview} {problem}")
        if figure.image != figure.preview and not read_plain_file(folder / "figures" / figure.image, 1):
            findings.append(f"figure {figure.label}: {figure.image} is missing or empty")
    return _check("figures", "Every figure exists and is not empty", findings)


def _check_citations(
    parts: DocumentParts, references: ReferenceList, folder: Path, search: LiteratureSearch | None
) -> PaperCheck:
    used = used_citations(parts)
    findings = [
        f"{key}: no search answer has this id, title and authors" for key in unresolved(used, references.answers)
    ]
    findings += citation_problems(parts)
    if read_bounded(folder / "references.bib", SOURCE_LIMIT_BYTES) != bibtex(used):
        findings.append("references.bib differs from the recorded references")
    if search is not None:
        findings += [found for citation in used if (found := _look_up(citation, search))]
    return _check("citations", "Every cited work is confirmed by id, title and authors", findings)


def _look_up(citation: Citation, search: LiteratureSearch) -> str:
    """Ask again for the work; a search that does not answer proves nothing against it."""
    try:
        works = [*search.search(citation.query, 20), *search.search(citation.work.title, 5)]
    except RunError as error:
        if error.code is FailureCode.NETWORK:
            return ""
        raise
    is_found = any(is_same_work(work, citation.work) for work in works)
    return "" if is_found else f"{citation.key}: {search.name} does not know this work"


def _check_ablations(parts: DocumentParts, results: RecordedResults) -> PaperCheck:
    rows = [text for table in parts.tables if table.label == "ablations" for text, *_ in table.texts]
    marked = sum("[identical]" in text for text in rows)
    shown = [node.node_id for node in results.ablations[: len(rows)] if node.node_id in flagged_ablations(results)]
    findings = [] if marked == len(shown) else [f"identical ablations are not marked: {', '.join(shown)}"]
    return _check("ablations", "Identical rows of ablations are marked", findings)


def _check_latex(paper: WrittenPaper) -> PaperCheck:
    findings = [
        problem
        for text in paper.draft.texts
        for problem in sanitize(text).problems
        if problem.endswith("forbidden")
    ]
    if paper.is_plain:
        findings.append("the writer's own LaTeX did not compile and was left out")
    return _check("latex", "The text uses known commands and compiles", findings)


def _check_pages(paper: WrittenPaper, page_limit: int) -> PaperCheck:
    is_over = paper.body_pages > page_limit
    findings = [f"{paper.body_pages} pages, at most {page_limit} are allowed"] if is_over else []
    return _check("pages", "The paper keeps its page limit", findings)


def _check_pdf(folder: Path, tools: LatexTools, runner: CodeRunner, stop: StopSignal) -> tuple[str, PaperCheck]:
    title = "The PDF can be read"
    data = read_plain_file(folder / "paper.pdf", PDF_LIMIT_BYTES)
    if not data:
        return "", _check("pdf", title, ["paper.pdf is missing or empty"])
    work = folder / "read"
    if work.exists():
        runner.remove(work)
    work.mkdir()
    (work / "paper.pdf").write_bytes(data)
    try:
        reading = read_pdf(work / "paper.pdf", work, tools, runner, stop)
    except RunError as error:
        if error.code is not FailureCode.LATEX_ERROR:
            raise
        return "", _check("pdf", title, [error.message])
    finally:
        runner.remove(work)
    return reading.text, _check("pdf", title, [])
