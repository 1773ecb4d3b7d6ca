"""Pages of the event log: bounded in events and in bytes, complete when they are read one after the other."""

from __future__ import annotations

from typing import Any

import pytest
from pymongo.database import Database

from pod_worker.control.runs.live import RunFollower
from pod_worker.store.events import reader as module
from pod_worker.store.events.reader import EventFilter, EventReader
from pod_worker.store.views.read_models import ReadModels

Db = Database[dict[str, Any]]
COUNT = 20


@pytest.fixture
def large(db: Db, monkeypatch: pytest.MonkeyPatch) -> Db:
    """A run with events of which three fit into a page."""
    monkeypatch.setattr(module, "PAGE_BYTES", 35_000)
    data = {"summary": "x" * 10_000}
    kind = "ai.run.stage_completed"
    db["events"].insert_many(
        [{"_id": f"e{n:02}", "runId": "r", "position": n, "type": kind, "data": data} for n in range(1, COUNT + 1)]
    )
    db["runs"].insert_one({"_id": "r", "status": "RUNNING"})
    return db


def ids(events: list[dict[str, Any]]) -> list[str]:
    return [event["_id"] for event in events]


@pytest.mark.parametrize("newest_first", [True, False])
def test_a_page_is_bounded_in_bytes_and_the_next_one_goes_on(large: Db, newest_first: bool) -> None:
    found: list[str] = []
    cursor: int | None = None
    while True:
        page = EventReader(large).read_page("r", EventFilter(), 1000, cursor, newest_first)
        assert 0 < len(page.items) <= 3
        found += ids(page.items)
        if (cursor := page.next_cursor) is None:
            break
    assert found == sorted((f"e{n:02}" for n in range(1, COUNT + 1)), reverse=newest_first)


def test_an_event_larger_than_a_page_is_a_page(large: Db, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE_BYTES", 10)
    page = EventReader(large).read_after("r", 3, 500)
    assert (ids(page.items), page.next_cursor) == (["e04"], 4)


def test_a_live_view_follows_in_bounded_steps_and_misses_nothing(large: Db) -> None:
    follower = RunFollower("r", ReadModels(large), EventReader(large))
    follower.position = 0
    found: list[str] = []
    while True:
        news = follower.poll()
        assert len(news.events) <= 6, "late events and fresh ones, a page of each"
        found += [each.id for each in news.events]
        if not follower.is_behind:
            break
    assert sorted(set(found)) == [f"e{n:02}" for n in range(1, COUNT + 1)]
    assert len(found) == COUNT
