"""Reading the event log in pages: by cursor, type and level.

Filters apply before paging. A page's cursor is the position of its last event. A page is bounded in events and in
bytes, because a run may send events of a megabyte each. Reads are tolerant: a document without a usable position
is left out. Nothing here interprets an event.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from functools import cache

import bson
from pymongo import ASCENDING, DESCENDING

from pod_worker.store.collections import DEAD_LETTERS, EVENTS
from pod_worker.store.document_fields import integer
from pod_worker.store.events.event_log import LEVELS
from pod_worker.store.mongo import Document, Mongo, tolerant_rows

LOG_TYPE = "ai.run.log"
PAGE_BYTES = 4 * 1024 * 1024  # of the stored events; a page has one event at least
# Positions that a cursor can be made of: no text, NaN or infinity that another program wrote.
_POSITIONS: Document = {"$gte": 0, "$lt": 2**62}


@cache
def _lifecycle() -> frozenset[str]:
    """The types that are no samples."""
    from pod_worker.core.payload import PAYLOADS  # its import takes as long as reading a page of runs

    return frozenset(name for name, kind in PAYLOADS.items() if not kind.sample)


@dataclass(frozen=True, slots=True)
class EventFilter:
    """`level` and above, for logs. Other events have no level and do not match any."""

    types: Sequence[str] = ()
    level: str | None = None
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class EventPage:
    items: list[Document]
    next_cursor: int | None  # None: no more events; a page may be shorter than asked for


class EventReader:
    def __init__(self, database: Mongo) -> None:
        self._events = tolerant_rows(database, EVENTS)
        self._dead_letters = tolerant_rows(database, DEAD_LETTERS)

    def read_page(
        self, run_id: str, wanted: EventFilter, size: int, cursor: int | None = None, newest_first: bool = True
    ) -> EventPage:
        """Events of a run beyond the cursor."""
        condition = _condition(run_id, wanted)
        if cursor is not None:
            condition["position"] |= {"$lt" if newest_first else "$gt": cursor}
        return self._page(condition, DESCENDING if newest_first else ASCENDING, size)

    def read_after(self, run_id: str, position: int, limit: int) -> EventPage:
        """Events after a position, oldest first."""
        wanted = {"runId": run_id, "position": _POSITIONS | {"$gt": position}}
        return self._page(wanted, ASCENDING, limit)

    def _page(self, condition: Document, order: int, size: int) -> EventPage:
        items: list[Document] = []
        total_bytes = 0
        with closing(self._events.find(condition).sort("position", order).limit(size + 1)) as found:
            for event in found:
                total_bytes += len(bson.encode(event))
                if items and (len(items) == size or total_bytes > PAGE_BYTES):
                    return EventPage(items, items[-1]["position"])
                items.append(_shown(event))
        return EventPage(items, None)

    def count_between(self, run_id: str, low: int, high: int) -> int:
        """How many events have low < position <= high."""
        return self._events.count_documents({"runId": run_id, "position": {"$gt": low, "$lte": high}})

    def ids_between(self, run_id: str, low: int, high: int) -> dict[str, int]:
        """Id -> position of the events with low < position <= high."""
        wanted = {"runId": run_id, "position": {"$gt": low, "$lte": high}}
        found = map(_shown, self._events.find(wanted, {"position": 1}))
        return {event["_id"]: event["position"] for event in found}

    def by_ids(self, ids: Sequence[str]) -> list[Document]:
        """The events with these ids, oldest first; as many as fit a page."""
        return self._page({"_id": {"$in": list(ids)}}, ASCENDING, len(ids)).items

    def last_position(self, run_id: str) -> int:
        """The position of the run's newest event; 0 without events."""
        wanted = {"runId": run_id, "position": _POSITIONS}
        found = self._events.find_one(wanted, {"position": 1}, sort=[("position", DESCENDING)])
        position: int = _shown(found)["position"] if found else 0
        return position

    def dead_letters(self, size: int) -> list[Document]:
        """The newest refused lines, newest first."""
        return list(self._dead_letters.find().sort("receivedAt", DESCENDING).limit(size))


def levels_from(level: str) -> list[str]:
    """That level and those above it."""
    return list(LEVELS[LEVELS.index(level) :])


def _condition(run_id: str, wanted: EventFilter) -> Document:
    condition: Document = {"runId": run_id, "position": dict(_POSITIONS)}
    if wanted.types:
        condition["type"] = wanted.types[0] if len(wanted.types) == 1 else {"$in": list(wanted.types)}
        if _lifecycle().issuperset(wanted.types):
            condition["notable"] = True  # lets the small index serve it
    if wanted.level is not None and wanted.level != LEVELS[0]:
        condition["level"] = {"$in": levels_from(wanted.level)}
        if wanted.level in ("warn", "error"):
            condition |= {"type": LOG_TYPE, "notable": True}
    if wanted.since is not None:
        # Positions are microseconds of arrival, and the index is by position.
        condition["position"]["$gte"] = max(0, int(wanted.since.timestamp() * 1_000_000))
    return condition


def _shown(event: Document) -> Document:
    return event | {"_id": str(event["_id"]), "position": integer(event.get("position")) or 0}
