"""Finds references: a model asks, the search answers, the model selects.

A selected id that no answer has is dropped and recorded. A run without a literature search goes on without
references and says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.research.completion import CompletionClient
from pod_worker.core.research.idea import Idea
from pod_worker.core.research.literature import LiteratureSearch, Work, normalized
from pod_worker.core.run import Json
from pod_worker.core.stage import StopSignal
from pod_worker.paper.prompts import STRING, array_of, as_objects, as_text, build_request, closed_object
from pod_worker.paper.typesetting.bibliography import Citation, SearchAnswer, citation_key

ROUNDS_LIMIT = 4
QUERIES_LIMIT = 3  # of a round
CANDIDATES_LIMIT = 8  # of a query
CITATIONS_LIMIT = 20
ABSTRACT_LIMIT = 600
QUERY_INSTRUCTIONS = """You collect references for a short machine learning paper. Return up to three search
queries of a few words each: for the method, the data, the baseline, related work, the statistics. is_done: nothing
important is missing."""
SELECT_INSTRUCTIONS = """Select the works that the paper should cite, by id. Select none rather than an unrelated
one. Use only ids of the candidates, and give one sentence of reason each."""
QUERY_SCHEMA = closed_object({"queries": array_of(STRING, QUERIES_LIMIT), "is_done": {"type": "boolean"}})
SELECT_SCHEMA = closed_object(
    {"selected": array_of(closed_object({"id": STRING, "reason": STRING}), QUERIES_LIMIT * CANDIDATES_LIMIT)}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceList:
    citations: tuple[Citation, ...] = ()
    answers: tuple[SearchAnswer, ...] = ()  # of the literature search: the proof
    notes: tuple[str, ...] = ()  # what was dropped, and why


def collect_references(
    idea: Idea, client: CompletionClient, search: LiteratureSearch, stop: StopSignal
) -> ReferenceList:
    """At most `CITATIONS_LIMIT` references within `ROUNDS_LIMIT` rounds."""
    if search.name == "unavailable":
        return ReferenceList(notes=("No literature search was available; the paper has no references.",))
    collector = _Collector(idea, client, search, stop)
    for _ in range(ROUNDS_LIMIT):
        if not collector.round():
            break
    return ReferenceList(
        citations=tuple(collector.citations), answers=tuple(collector.answers), notes=tuple(collector.notes)
    )


class _Collector:
    def __init__(self, idea: Idea, client: CompletionClient, search: LiteratureSearch, stop: StopSignal) -> None:
        self._idea, self._client, self._search, self._stop = idea, client, search, stop
        self.citations: list[Citation] = []
        self.answers: list[SearchAnswer] = []
        self.notes: list[str] = []

    def round(self) -> bool:
        """One round; False where no other one can add anything."""
        self._stop.check()
        facts: dict[str, Json] = {
            "idea": self._idea.to_json(),
            "abstract": self._idea.abstract,
            "have": [citation.work.title for citation in self.citations],
        }
        answer = self._ask("citations.query", QUERY_INSTRUCTIONS, facts, QUERY_SCHEMA)
        asked = {normalized(each.query) for each in self.answers}
        listed = answer.get("queries")
        queries = [as_text(query, 200) for query in listed if query] if isinstance(listed, list) else []
        fresh = [query for query in dict.fromkeys(queries) if query and normalized(query) not in asked]
        if not all(self._search_and_select(query) for query in fresh[:QUERIES_LIMIT]):
            return False
        return bool(fresh) and not answer.get("is_done") and len(self.citations) < CITATIONS_LIMIT

    def _search_and_select(self, query: str) -> bool:
        self._stop.check()
        try:
            works = self._search.search(query, CANDIDATES_LIMIT)
        except RunError as error:
            if error.code is not FailureCode.NETWORK:
                raise
            self.notes.append(f"The literature search stopped: {error.message}")
            return False
        self.answers.append(SearchAnswer(query=query, source=self._search.name, works=works))
        have = {citation.work.id for citation in self.citations}
        candidates = {work.id: work for work in works if work.id not in have}
        if candidates:
            self._select(query, candidates)
        return True

    def _select(self, query: str, candidates: Mapping[str, Work]) -> None:
        facts: dict[str, Json] = {
            "query": query,
            "idea": self._idea.to_json(),
            "candidates": [_candidate(work) for work in candidates.values()],
        }
        answer = self._ask("citations.select", SELECT_INSTRUCTIONS, facts, SELECT_SCHEMA)
        for entry in as_objects(answer.get("selected"), CANDIDATES_LIMIT):
            work = candidates.get(as_text(entry.get("id"), 300))
            if work is None:
                self.notes.append(
                    f"The selected id {entry.get('id')!r} is in no answer to {query!r}; it was dropped."
                )
            elif len(self.citations) < CITATIONS_LIMIT and work.id not in {
                each.work.id for each in self.citations
            }:
                key = citation_key(work, [citation.key for citation in self.citations])
                reason = as_text(entry.get("reason"), 300)
                self.citations.append(Citation(key=key, work=work, query=query, reason=reason))

    def _ask(
        self, operation: str, instructions: str, facts: dict[str, Json], schema: dict[str, Json]
    ) -> dict[str, Json]:
        request = build_request(operation, instructions, facts, schema, stage="paper", temperature=0.3)
        value = self._client.complete(request).value
        return value if isinstance(value, dict) else {}


def _candidate(work: Work) -> dict[str, Json]:
    return work.to_json() | {"abstract": work.abstract[:ABSTRACT_LIMIT]}
