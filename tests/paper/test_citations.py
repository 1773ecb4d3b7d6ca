"""References come from answers of the literature search, and from nowhere else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.research.completion import CompletionRequest
from pod_worker.core.research.idea import Idea
from pod_worker.core.research.literature import Work
from pod_worker.core.run import Json
from pod_worker.literature.recorded import RecordedSearch, UnavailableSearch
from pod_worker.paper.citations import CITATIONS_LIMIT, ROUNDS_LIMIT, collect_references
from pod_worker.paper.typesetting.bibliography import bibtex, citation_key, cited_keys, unresolved
from tests.paper.conftest import QUERIES, NoStop, Writer, select_first

STOP = NoStop()


def select_all(request: CompletionRequest) -> Json:
    return {"selected": [{"id": each["id"], "reason": "r"} for each in request.facts["candidates"]]}


def test_a_selected_work_becomes_a_reference(idea: Idea) -> None:
    client = Writer(citations__query=[QUERIES], citations__select=select_first)
    found = collect_references(idea, client, RecordedSearch(), STOP)
    (citation,) = found.citations
    assert citation.key == "muller2019when"
    assert citation.work.title == "When Does Label Smoothing Help?"
    assert unresolved(found.citations, found.answers) == ()
    assert "@misc{muller2019when," in bibtex(found.citations)


def test_an_invented_id_is_dropped_and_recorded(idea: Idea) -> None:
    client = Writer(
        citations__query=[QUERIES], citations__select=[{"selected": [{"id": "doi:10.1/fake", "reason": "r"}]}]
    )
    found = collect_references(idea, client, RecordedSearch(), STOP)
    assert found.citations == ()
    assert "doi:10.1/fake" in found.notes[0]


def test_no_work_is_taken_twice_and_rounds_are_bounded(idea: Idea) -> None:
    queries = [{"queries": [f"neural network {index}"], "is_done": False} for index in range(20)]
    client = Writer(citations__query=queries, citations__select=select_all)
    found = collect_references(idea, client, RecordedSearch(), STOP)
    assert client.count("citations.query") <= ROUNDS_LIMIT
    assert len(found.citations) <= CITATIONS_LIMIT
    for values in ([each.key for each in found.citations], [each.work.id for each in found.citations]):
        assert len(set(values)) == len(values)


def test_a_repeated_query_is_not_searched_again(idea: Idea) -> None:
    client = Writer(citations__query=[QUERIES | {"is_done": False}], citations__select=[{"selected": []}])
    found = collect_references(idea, client, RecordedSearch(), STOP)
    assert len(found.answers) == 1
    assert client.count("citations.query") == 2


def test_without_a_search_the_paper_goes_on_and_says_so(idea: Idea) -> None:
    client = Writer()
    found = collect_references(idea, client, UnavailableSearch(), STOP)
    assert found.citations == ()
    assert "No literature search was available" in found.notes[0]
    assert client.requests == []


class FailingSearch:
    name = "failing"

    def __init__(self, code: FailureCode) -> None:
        self._code = code

    def search(self, query: str, limit: int) -> tuple[Work, ...]:
        raise RunError(self._code, "status 429")


def test_a_search_that_stops_answering_ends_the_rounds(idea: Idea) -> None:
    client = Writer(citations__query=[QUERIES | {"is_done": False}], citations__select=select_first)
    found = collect_references(idea, client, FailingSearch(FailureCode.NETWORK), STOP)
    assert found.citations == ()
    assert "status 429" in found.notes[0]
    assert client.count("citations.query") == 1
    with pytest.raises(RunError):
        collect_references(idea, client, FailingSearch(FailureCode.INVALID_INPUT), STOP)


@pytest.mark.parametrize(
    "answer", [None, "prose", {}, {"queries": "x"}, {"queries": [None, 3, ""]}, {"selected": 3}]
)
def test_an_answer_of_another_shape_adds_nothing(idea: Idea, answer: Json) -> None:
    client = Writer(citations__query=[answer], citations__select=[answer])
    assert collect_references(idea, client, RecordedSearch(), STOP).citations == ()


def test_keys_are_readable_and_distinct() -> None:
    work = Work(id="x", title="The Émile Paper: A Study", authors=("Zoë de Vries-O'Neil",), year=2020)
    assert citation_key(work, []) == "neil2020emile"
    assert citation_key(work, ["neil2020emile"]) == "neil2020emileb"
    assert citation_key(replace(work, year=None, authors=("漢字",)), []) == "anonymousemile"


def test_cited_keys_are_those_of_every_cite_command() -> None:
    assert cited_keys(r"\citep{a, b} \citet[see][p]{c} \cite*{a} \ref{d}") == ("a", "b", "c")
