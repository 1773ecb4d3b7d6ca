"""The OpenAlex API, search of works.

https://docs.openalex.org/api-entities/works/search-works: `GET /works?search=`. An address in `mailto` gives the
polite pool.
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

DEFAULT_URL = "https://api.openalex.org"
ABSTRACT_LIMIT_WORDS = 2_000
_FIELDS = "id,doi,display_name,publication_year,authorships,primary_location,abstract_inverted_index"


class OpenAlexSearch:
    """Implements `core.research.literature.LiteratureSearch`."""

    name = "openalex"

    def __init__(
        self,
        stop: StopSignal,
        *,
        mailto: str | None = None,
        base_url: str = DEFAULT_URL,
        limits: IndexLimits | None = None,
    ) -> None:
        self._url = f"{base_url.rstrip('/')}/works"
        self._mailto = {"mailto": mailto} if mailto else {}
        self._index = HttpIndex("OpenAlex", limits=limits or IndexLimits(), stop=stop)

    def search(self, query: str, limit: int) -> tuple[Work, ...]:
        return self._index.works(query, limit, lambda count: self._entries(query, count), _work)

    def _entries(self, query: str, count: int) -> list[Json]:
        # A comma or colon in `search` belongs to the syntax of filters.
        words = shorten_query(query).replace(",", " ").replace(":", " ")
        parameters = {"search": words, "per-page": str(count), "select": _FIELDS} | self._mailto
        return as_list(as_object(self._index.get(self._url, parameters)).get("results"))


def _work(entry: dict[str, Json]) -> Work | None:
    location = as_object(entry.get("primary_location"))
    authors = [as_object(as_object(link).get("author")) for link in as_list(entry.get("authorships"))]
    number = str(entry.get("id") or "").rpartition("/")[2]
    return read_work(
        {
            "id": f"openalex:{number}" if number else "",
            "title": entry.get("display_name"),
            "authors": [author.get("display_name") or "" for author in authors],
            "year": entry.get("publication_year"),
            "venue": as_object(location.get("source")).get("display_name"),
            "abstract": restore_abstract(entry.get("abstract_inverted_index")),
            "url": entry.get("doi") or location.get("landing_page_url") or entry.get("id"),
        }
    )


def restore_abstract(inverted: Json) -> str:
    """The text of an inverted index (word → positions), of bounded length."""
    placed = {
        position: str(word)
        for word, positions in as_object(inverted).items()
        for position in as_list(positions)
        if isinstance(position, int) and 0 <= position < ABSTRACT_LIMIT_WORDS
    }
    return " ".join(placed[position] for position in sorted(placed))
