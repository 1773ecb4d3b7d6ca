"""The Semantic Scholar Academic Graph API, paper relevance search.

https://api.semanticscholar.org/api-docs/graph: `GET /graph/v1/paper/search`. Works without a key at a shared rate.
"""

from __future__ import annotations

from pod_worker.core.research.literature import Work, read_work
from pod_worker.core.run import Json
from pod_worker.core.stage import StopSignal
from pod_worker.literature.http_index import (
    HttpIndex,
    IndexLimits,
    as_list,
    as_object,
    shorten_query,
)

DEFAULT_URL = "https://api.semanticscholar.org"
_FIELDS = "title,authors,year,venue,abstract,url"


class SemanticScholarSearch:
    """Implements `core.research.literature.LiteratureSearch`."""

    name = "semantic_scholar"

    def __init__(
        self,
        stop: StopSignal,
        *,
        api_key: str | None = None,
        base_url: str = DEFAULT_URL,
        limits: IndexLimits | None = None,
    ) -> None:
        headers = {"x-api-key": api_key} if api_key else {}
        self._url = f"{base_url.rstrip('/')}/graph/v1/paper/search"
        self._index = HttpIndex("Semantic Scholar", limits=limits or IndexLimits(), stop=stop, headers=headers)

    def search(self, query: str, limit: int) -> tuple[Work, ...]:
        return self._index.works(query, limit, lambda count: self._entries(query, count), _work)

    def _entries(self, query: str, count: int) -> list[Json]:
        parameters = {"query": shorten_query(query), "limit": str(count), "fields": _FIELDS}
        return as_list(as_object(self._index.get(self._url, parameters)).get("data"))


def _work(entry: dict[str, Json]) -> Work | None:
    return read_work(
        {
            "id": f"s2:{entry['paperId']}" if entry.get("paperId") else "",
            "title": entry.get("title"),
            "authors": [as_object(author).get("name") or "" for author in as_list(entry.get("authors"))],
            **{name: entry.get(name) for name in ("year", "venue", "abstract", "url")},
        }
    )
