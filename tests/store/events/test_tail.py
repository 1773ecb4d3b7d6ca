"""Following events: each exactly once, also those that become visible after later ones."""

from __future__ import annotations

from typing import Any

from pymongo.database import Database

from pod_worker.store.events.reader import EventFilter, EventReader
from pod_worker.store.events.tail import PAGE_EVENTS, EventTail

Db = Database[dict[str, Any]]
START = 1_700_000_000_000_000


def add(db: Db, *positions: int, kind: str = "ai.run.log") -> None:
    db.events.insert_many(
        [
            {"_id": f"e{at}", "runId": "r", "position": START + at, "type": kind, "level": "info", "data": {}}
            for at in positions
        ]
    )


def tail_of(db: Db, last: int = 3) -> EventTail:
    return EventTail(EventReader(db), "r", EventFilter(("ai.run.log",)), last)


def read(tail: EventTail) -> list[str]:
    return [event["_id"] for event in tail.read()]


def test_the_last_events_come_first_and_each_comes_once(db: Db) -> None:
    add(db, 10, 20, 30, 40, 50)
    tail = tail_of(db)
    assert read(tail) == ["e30", "e40", "e50"]
    assert read(tail) == []
    add(db, 60)
    assert read(tail) == ["e60"]
    assert read(tail) == []


def test_an_event_that_becomes_visible_late_is_not_missed(db: Db) -> None:
    add(db, 10, 50)
    tail = tail_of(db)
    assert read(tail) == ["e10", "e50"]
    add(db, 60)
    assert read(tail) == ["e60"]
    add(db, 40)  # a batch that got its positions before that of e60 and was stored after it
    assert read(tail) == ["e40"]
    assert read(tail) == []


def test_a_run_without_matching_events_is_followed_from_its_first_one(db: Db) -> None:
    add(db, 10, kind="ai.run.started")
    tail = tail_of(db)
    assert read(tail) == []
    add(db, 20)
    assert read(tail) == ["e20"]


def test_more_than_a_page_comes_completely(db: Db) -> None:
    add(db, 1)
    tail = tail_of(db)
    assert read(tail) == ["e1"]
    many = range(2, 2 * PAGE_EVENTS + 100)
    add(db, *many)
    found: list[str] = []
    while page := read(tail):
        found += page
    assert found == [f"e{at}" for at in many]
