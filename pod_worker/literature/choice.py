"""The literature search that a run's parameters name."""

from __future__ import annotations

from pathlib import Path

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.research.literature import LiteratureSearch
from pod_worker.core.stage import StopSignal
from pod_worker.literature.openalex import OpenAlexSearch
from pod_worker.literature.recorded import RecordedSearch, UnavailableSearch
from pod_worker.literature.semantic_scholar import SemanticScholarSearch

SOURCES = ("openalex", "semantic_scholar", "recorded", "none")


def literature_search(
    source: str,
    stop: StopSignal,
    *,
    api_key: str | None = None,
    mailto: str | None = None,
    folder: Path | None = None,
) -> LiteratureSearch:
    """The adapter for a source of `SOURCES`.

    `api_key` is Semantic Scholar's, `mailto` OpenAlex's, `folder` that of recorded works. Raises
    RunError(INVALID_INPUT) for another source.
    """
    if source == "openalex":
        return OpenAlexSearch(stop, mailto=mailto)
    if source == "semantic_scholar":
        return SemanticScholarSearch(stop, api_key=api_key)
    if source == "recorded":
        return RecordedSearch(folder) if folder else RecordedSearch()
    if source == "none":
        return UnavailableSearch()
    raise RunError(
        FailureCode.INVALID_INPUT,
        f"the literature source {source!r} is unknown. Use one of: {', '.join(SOURCES)}.",
    )
