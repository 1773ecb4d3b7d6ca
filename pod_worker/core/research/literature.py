"""A published work, and the port of a literature search.

`literature/` has the adapters. `paper/` and the stages only know this port.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import asdict, dataclass
from typing import Protocol

from pod_worker.core.run import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One published work as an index of literature describes it."""

    id: str  # of the index, with its name in front: `openalex:W123`, `s2:<hash>`, `doi:10.…`
    title: str
    authors: tuple[str, ...]
    year: int | None = None
    venue: str = ""
    abstract: str = ""
    url: str = ""

    def to_json(self) -> dict[str, Json]:
        return asdict(self) | {"authors": list(self.authors)}


class LiteratureSearch(Protocol):
    """Finds published works; safe for several threads."""

    @property
    def name(self) -> str:
        """The index: `openalex`, `semantic_scholar`, `recorded`, `unavailable`."""

    def search(self, query: str, limit: int) -> tuple[Work, ...]:
        """At most `limit` works, best match first; empty when none matches.

        Raises RunError(NETWORK) when the index does not answer within the bounded retries.
        CancelRequested and DrainRequested end a wait.
        """


def read_work(value: Json) -> Work | None:
    """The work in a JSON object of `Work.to_json`; None without id, title or authors."""
    if not isinstance(value, dict):
        return None
    authors = value.get("authors")
    names = tuple(str(name).strip() for name in authors if str(name).strip()) if isinstance(authors, list) else ()
    work_id, title = str(value.get("id") or "").strip(), str(value.get("title") or "").strip()
    if not (work_id and title and names):
        return None
    year = value.get("year")
    return Work(
        id=work_id,
        title=title,
        authors=names,
        year=year if isinstance(year, int) and not isinstance(year, bool) else None,
        **{name: str(value.get(name) or "") for name in ("venue", "abstract", "url")},
    )


def is_same_work(left: Work, right: Work) -> bool:
    """Whether two descriptions name one work: id, title and authors agree."""
    return left.id == right.id and matches_description(left, right.title, right.authors)


def matches_description(work: Work, title: str, authors: tuple[str, ...]) -> bool:
    """Whether title and authors are the work's.

    Case, accents and punctuation do not count."""
    return normalized(work.title) == normalized(title) and [family_name(name) for name in work.authors] == [
        family_name(name) for name in authors
    ]


def normalized(text: str) -> str:
    """Lower-case ASCII words of a text, separated by single spaces."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return " ".join(re.findall(r"[a-z0-9]+", plain.lower()))


def family_name(author: str) -> str:
    """The family name in `Given Family` and in `Family, Given`, normalized."""
    name = author.partition(",")[0] if "," in author else author
    words = normalized(name).split()
    return words[-1] if words else ""
