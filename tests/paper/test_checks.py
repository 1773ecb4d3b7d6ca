"""A planted wrong digit, a planted reference, a missing figure: each makes a check fail before any review."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.research.idea import Idea
from pod_worker.core.research.literature import Work
from pod_worker.core.run import Json
from pod_worker.literature.recorded import RecordedSearch, UnavailableSearch
from pod_worker.paper.checks import CheckedPaper, check_paper
from pod_worker.paper.citations import ReferenceList
from pod_worker.paper.evidence.results import RecordedResults, read_json, write_json
from pod_worker.paper.plots import image_problem
from pod_worker.paper.typesetting.bibliography import Citation, unresolved
from pod_worker.paper.typesetting.latex import LatexTools
from pod_worker.paper.verdict import PaperCheck
from pod_worker.paper.writing import WrittenPaper
from tests.paper.conftest import NoStop, PlainRunner


class Checker:
    def __init__(self, idea: Idea, results: RecordedResults, tools: LatexTools) -> None:
        self._idea, self._results, self._tools = idea, results, tools

    def __call__(self, folder: Path, **fields: Json) -> CheckedPaper:
        given = {"page_limit": 4, "results": self._results} | fields
        results = given.pop("results")
        return check_paper(self._idea, results, folder, self._tools, PlainRunner(), NoStop(), **given)


@pytest.fixture(scope="module")
def check(idea: Idea, results: RecordedResults, latex_tools: LatexTools) -> Checker:
    return Checker(idea, results, latex_tools)


def failed(checked: CheckedPaper) -> list[str]:
    return [each.name for each in checked.checks if not each.holds]


def test_an_honest_paper_holds(paper_folder: Path, check: Checker) -> None:
    checked = check(paper_folder, search=RecordedSearch())
    assert failed(checked) == []
    assert checked.hold
    assert "Label smoothing on small data" in checked.text
    stored = msgspec.json.decode((paper_folder / "checks.json").read_bytes(), type=tuple[PaperCheck, ...])
    assert stored == checked.checks
    assert not (paper_folder / "read").exists()


def rewrite(folder: Path, **fields: Json) -> None:
    paper = read_json(folder / "paper.json", WrittenPaper)
    write_json(folder / "paper.json", replace(paper, draft=replace(paper.draft, **fields)))


def test_a_planted_number_in_the_text_is_found(paper_folder: Path, check: Checker) -> None:
    rewrite(paper_folder, abstract="We reach 0.99.")
    assert "numbers" in failed(check(paper_folder))


@pytest.mark.parametrize("digit", ["0", "7"])
def test_a_changed_digit_in_the_source_is_found(paper_folder: Path, check: Checker, digit: str) -> None:
    source = (paper_folder / "paper.tex").read_text()
    place = source.index(r"\ensuremath{0.9") + len(r"\ensuremath{0.9")
    assert source[place] != digit
    (paper_folder / "paper.tex").write_text(source[:place] + digit + source[place + 1 :])
    checked = check(paper_folder)
    assert failed(checked) == ["source"]
    assert (
        rf"\ensuremath{{0.9{digit}" in next(each for each in checked.checks if each.name == "source").findings[0]
    )


def test_a_changed_ledger_is_found(paper_folder: Path, check: Checker) -> None:
    ledger = (paper_folder / "numbers.json").read_text()
    (paper_folder / "numbers.json").write_text(ledger.replace('"value": 180', '"value": 181'))
    checked = check(paper_folder)
    assert failed(checked) == ["numbers"]
    assert "task.train_rows" in checked.checks[0].findings[0]


def test_results_that_changed_since_the_paper_are_found(
    paper_folder: Path, check: Checker, results: RecordedResults
) -> None:
    nodes = tuple(
        replace(node, scores=(0.5, 0.6, 0.7)) if node.node_id == "n4" else node for node in results.nodes
    )
    assert {"numbers", "source"} <= set(failed(check(paper_folder, results=replace(results, nodes=nodes))))


FAKE = Work(id="doi:10.1/fake", title="A Paper That Does Not Exist", authors=("A. Nonymous",), year=2020)


def test_a_planted_reference_is_found(paper_folder: Path, check: Checker) -> None:
    references = read_json(paper_folder / "references.json", ReferenceList)
    (used,) = [each for each in references.citations if each.key == "muller2019when"]
    fake = replace(references, citations=(replace(used, work=FAKE),))
    write_json(paper_folder / "references.json", fake)
    assert "citations" in failed(check(paper_folder))


@pytest.mark.parametrize("field", ["id", "title", "authors"])
def test_a_reference_needs_id_title_and_authors_of_an_answer(field: str) -> None:
    search = RecordedSearch()
    work = search.search("dropout", 1)[0]
    answers = (msgspec.convert({"query": "dropout", "source": "recorded", "works": [work]}, _answer()),)
    assert unresolved([Citation(key="k", work=work, query="dropout")], answers) == ()
    other = replace(work, **{field: getattr(FAKE, field)})
    assert unresolved([Citation(key="k", work=other, query="dropout")], answers) == ("k",)


def _answer() -> type:
    from pod_worker.paper.typesetting.bibliography import SearchAnswer

    return SearchAnswer


def test_a_search_that_does_not_know_the_work_refutes_it(paper_folder: Path, check: Checker) -> None:
    assert failed(check(paper_folder, search=UnavailableSearch())) == ["citations"]


class DeadSearch:
    name = "dead"

    def search(self, query: str, limit: int) -> tuple[Work, ...]:
        raise RunError(FailureCode.NETWORK, "no answer")


def test_a_search_that_does_not_answer_refutes_nothing(paper_folder: Path, check: Checker) -> None:
    assert check(paper_folder, search=DeadSearch()).hold


@pytest.mark.parametrize("file", ["stages.png", "stages.pdf"])
@pytest.mark.parametrize("content", [None, b""])
def test_a_missing_or_empty_figure_is_found(
    paper_folder: Path, check: Checker, file: str, content: bytes | None
) -> None:
    path = paper_folder / "figures" / file
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    checked = check(paper_folder)
    assert failed(checked) == ["figures"]


def test_an_undefined_reference_is_found(paper_folder: Path, check: Checker) -> None:
    paper = read_json(paper_folder / "paper.json", WrittenPaper)
    write_json(paper_folder / "paper.json", replace(paper, undefined=("fig:none",)))
    assert failed(check(paper_folder)) == ["references"]


def test_the_page_limit_is_checked(paper_folder: Path, check: Checker) -> None:
    assert failed(check(paper_folder, page_limit=0)) == ["pages"]


@pytest.mark.parametrize("data", [b"", b"%PDF-1.5\nnothing\n", None])
def test_a_pdf_that_cannot_be_read_is_found(paper_folder: Path, check: Checker, data: bytes | None) -> None:
    (paper_folder / "paper.pdf").unlink()
    if data is not None:
        (paper_folder / "paper.pdf").write_bytes(data)
    checked = check(paper_folder)
    assert failed(checked) == ["pdf"]
    assert checked.text == ""


def test_a_link_is_no_pdf(paper_folder: Path, check: Checker, tmp_path: Path) -> None:
    moved = shutil.move(paper_folder / "paper.pdf", tmp_path / "elsewhere.pdf")
    (paper_folder / "paper.pdf").symlink_to(moved)
    assert failed(check(paper_folder)) == ["pdf"]


def test_a_folder_without_a_paper_is_refused(tmp_path: Path, check: Checker) -> None:
    with pytest.raises(RunError, match=r"paper\.json cannot be read") as caught:
        check(tmp_path)
    assert caught.value.code is FailureCode.INVALID_INPUT


def test_only_a_whole_png_of_a_sensible_size_is_an_image(paper_folder: Path) -> None:
    data = (paper_folder / "figures" / "stages.png").read_bytes()
    assert image_problem(data) == ""
    assert image_problem(None)
    assert image_problem(b"")
    assert image_problem(data[:-20])
    assert image_problem(b"GIF89a" + data)
    assert image_problem(data[:16] + (10**6).to_bytes(4) + data[20:])
