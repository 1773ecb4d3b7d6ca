"""Reading the event log in pages: by cursor, by type, by level; for lists, logs and live views.

Filters apply before paging. A page's cursor is the position of its last event. Reads are tolerant like those of
`read_models`; nothing here decides what an event means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache

from pymongo import ASCENDING, DESCENDING

from pod_worker.store.collections import DEAD_LETTERS, EVENTS
from pod_worker.store.events.event_log import LEVELS
from pod_worker.store.mongo import Document, Mongo, tolerant_rows

LOG_TYPE = "ai.run.log"


@cache
def _lifecycle() -> frozenset[str]:
    """The types that are never thinned."""
    from pod_worker.core.payload import PAYLOADS  # takes as long to import as a page of runs to read

    return frozenset(name for name, kind in PAYLOADS.items() if not kind.sample)


@dataclass(frozen=True, slots=True)
class EventFilter:
    """`level` and above, for logs; other events have no level and are left out when one is asked for."""

    types: Sequence[str] = ()
    level: str | None = None
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class EventPage:
    items: list[Document]
    next_cursor: int | None  # None: the end was reached


class EventReader:
    def __init__(self, database: Mongo) -> None:
        self._events = tolerant_rows(database, EVENTS)
        self._dead = tolerant_rows(database, DEAD_LETTERS)

    def read_page(
        self, run_id: str, wanted: EventFilter, size: int, cursor: int | None = None, newest_first: bool = True
    ) -> EventPage:
        """Events of a run on the far side of the cursor."""
        condition = _condition(run_id, wanted)
        if cursor is not None:
            condition["position"] = condition.get("position", {}) | {"$lt" if newest_first else "$gt": cursor}
        order = DESCENDING if newest_first else ASCENDING
        found = list(self._events.find(condition).sort("position", order).limit(size + 1))
        items = [_shown(each) for each in found[:size]]
        return EventPage(items, items[-1]["position"] if len(found) > size else None)

    def read_after(self, run_id: str, position: int, limit: int) -> list[Document]:
        """What came after a position, oldest first."""
        found = self._events.find({"runId": run_id, "position": {"$gt": position}})
        return [_shown(each) for each in found.sort("position", ASCENDING).limit(limit)]

    def count_between(self, run_id: str, low: int, high: int) -> int:
        """How many have low < position <= high."""
        return self._events.count_documents({"runId": run_id, "position": {"$gt": low, "$lte": high}})

    def ids_between(self, run_id: str, low: int, high: int) -> dict[str, int]:
        """Id -> position of those."""
        wanted = {"runId": run_id, "position": {"$gt": low, "$lte": high}}
        return {each["_id"]: int(each["position"]) for each in self._events.find(wanted, {"position": 1})}

    def by_ids(self, ids: Sequence[str]) -> list[Document]:
        """Oldest first."""
        found = [_shown(each) for each in self._events.find({"_id": {"$in": list(ids)}})]
        return sorted(found, key=lambda event: int(event["position"]))

    def last_position(self, run_id: str) -> int:
        """0 where a run has no event."""
        found = self._events.find_one({"runId": run_id}, {"position": 1}, sort=[("position", DESCENDING)])
        return int(found["position"]) if found else 0

    def dead_letters(self, size: int) -> list[Document]:
        """The refused lines, newest first."""
        return list(self._dead.find().sort("receivedAt", DESCENDING).limit(size))


def levels_from(level: str) -> list[str]:
    """That level and those above it."""
    return list(LEVELS[LEVELS.index(level) :])


def _condition(run_id: str, wanted: EventFilter) -> Document:
    condition: Document = {"runId": run_id}
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
        condition["position"] = {"$gte": int(wanted.since.timestamp() * 1_000_000)}
    return condition


def _shown(event: Document) -> Document:
    position = event.get("position")
    return event | {"position": int(position) if isinstance(position, int | float) else 0}
