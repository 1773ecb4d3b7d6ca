"""The log keeps each id once, and says which ids it had; refused lines are kept beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.collection import Collection
from pymongo.errors import AutoReconnect, BulkWriteError, WriteConcernError

from pod_worker.core.event import Event
from pod_worker.core.run import Json
from pod_worker.store.events import event_log
from pod_worker.store.events.event_log import (
    INDEXES,
    AppendResult,
    DeadLetter,
    EventLog,
    StoredEvent,
    arrival_and_expiry,
    event_document,
    stored_event_from_document,
)
from pod_worker.store.events.event_writer import EventWriter
from pod_worker.store.events.reader import EventFilter, EventReader
from pod_worker.store.mongo import Document, connect, ensure_indexes

NOW = datetime(2026, 1, 1, 12, 30, tzinfo=UTC)


class QuickLog(EventLog):
    """The log with the writer that ingest uses."""

    def __init__(self, database: Any) -> None:
        super().__init__(database)
        self.loop = asyncio.Runner()
        self.writer = EventWriter(database, EventLog(database))

    def append(self, documents: Sequence[Document]) -> AppendResult:
        sent = sum(len(str(each["data"])) for each in documents)
        return self.loop.run(self.writer.append(documents, json_bytes=sent))

    def close(self) -> None:
        self.loop.run(self.writer.close())
        self.loop.close()


@pytest.fixture
def quick(db: Any, mongodb_url: str) -> Iterator[QuickLog]:
    ensure_indexes(db, INDEXES)
    database = connect(mongodb_url)
    log = QuickLog(database)
    yield log
    log.close()
    database.client.close()


@pytest.fixture(params=["carefully", "quickly"])
def log(request: pytest.FixtureRequest, quick: QuickLog, mongodb_url: str) -> EventLog:
    return quick if request.param == "quickly" else EventLog(quick._events.database)


def entry(
    name: str, position: int = 1, run_id: str | None = "r1", attempt: int | None = 1, **data: Json
) -> StoredEvent:
    subject = f"run/{run_id}" if run_id else "pod/p1"
    event = Event(name, "test://x", "ai.run.log", subject, NOW, data, seq=position, attempt=attempt)
    return StoredEvent(event, run_id, attempt or 0, position, NOW, is_sample=True, level="info")


def stored(entry: StoredEvent) -> Document:
    stamps = arrival_and_expiry(entry.received_at)
    details = (entry.is_sample, entry.level, entry.is_fenced)
    return event_document(entry.event, entry.run_id, entry.attempt, entry.position, stamps, *details)


def keep(log: EventLog, entries: Sequence[StoredEvent]) -> AppendResult:
    return log.append([stored(each) for each in entries])


def test_an_entry_comes_back_as_it_went_in(log: EventLog) -> None:
    entries = {
        "a": entry("a", kv={"x.y": 1, "$z": [None]}),
        "b": entry("b", run_id=None),
        "c": entry("c", attempt=None),
    }
    keep(log, list(entries.values()))
    assert log.stored(["a", "b", "c", "d"]) == entries


def test_an_id_is_stored_once(log: EventLog) -> None:
    first = keep(log, [entry("a"), entry("b")])
    assert (first.duplicates, first.refused) == (frozenset(), {})
    again = keep(log, [entry("b", 9), entry("c"), entry("c")])
    assert again.duplicates == {0, 2}
    assert log.stored(["b"])["b"].position == 1, "the first one stands"


def test_what_the_server_will_not_take_is_named(log: EventLog, db: Any) -> None:
    db.command("collMod", "events", validator={"data.n": {"$ne": 13}})
    outcome = keep(log, [entry(f"e{n}", n=n) for n in (12, 13, 14)])
    assert list(outcome.refused) == [1]
    assert db["events"].count_documents({}) == 2


def test_more_than_a_message_holds_goes_in_several(log: EventLog, db: Any) -> None:
    large = [entry(f"e{n}", text=[0] * 1_000_000) for n in range(5)]
    assert keep(log, large).refused == {}
    assert db["events"].count_documents({}) == 5


def test_a_broken_connection_is_tried_again(quick: QuickLog, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any, **__: Any) -> None:
        raise AutoReconnect("the primary stepped down")

    monkeypatch.setattr(AsyncDatabase, "command", broken)
    assert keep(quick, [entry("a")]) == AppendResult(frozenset(), {})
    assert keep(quick, [entry("a")]).duplicates == {0}


def test_without_a_majority_it_is_not_stored(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    why = {"code": 64, "errmsg": "waiting for replication timed out"}

    async def late(*_: Any, **__: Any) -> Any:
        return {"ok": 1, "n": 1, "writeConcernError": why}

    def as_late(*_: Any, **__: Any) -> None:
        raise BulkWriteError({"writeErrors": [], "writeConcernErrors": [why]})

    monkeypatch.setattr(AsyncDatabase, "command", late)
    monkeypatch.setattr(Collection, "insert_many", as_late)
    with pytest.raises(WriteConcernError):
        keep(log, [entry("a")])


@pytest.mark.parametrize("value", [2**63, {"a\0b": 1}, {"deep": "\ud800"}, object()])
def test_what_cannot_be_encoded_fails_alone(log: EventLog, value: Any) -> None:
    keep(log, [entry("known")])
    outcome = keep(log, [entry("a"), entry("bad", value=value), entry("known"), entry("b")])
    assert (list(outcome.refused), outcome.duplicates) == ([1], {2})
    assert "cannot be stored" in outcome.refused[1]
    assert set(log.stored(["a", "bad", "b"])) == {"a", "b"}
    assert list(keep(log, [entry("bad", value=value)]).refused) == [0]


def test_replay_is_in_order_of_arrival(log: EventLog, db: Any) -> None:
    keep(log, [*(entry(f"e{n}", position=-n) for n in range(5)), entry("other", run_id="r2")])
    db["events"].insert_one({"_id": "bad", "runId": "r1", "position": 0})
    assert [each.event.id for each in log.replay("r1")] == ["e4", "e3", "e2", "e1", "e0"]
    assert set(log.run_ids()) == {"r1", "r2"}


def test_an_odd_document_is_no_entry() -> None:
    assert stored_event_from_document({"_id": 1}) is None
    assert stored_event_from_document({"_id": 1, "time": NOW, "type": 5, "data": {}}) is None


def test_a_dead_line_is_kept_once_and_cut(log: EventLog, db: Any) -> None:
    line = DeadLetter(b"\xff" + b"x" * 100_000, "bad_json", "why", None, NOW)
    log.add_dead_letters([line, line])
    log.add_dead_letters([line])
    kept = list(db["events_dead"].find())
    assert len(kept) == 1
    assert (kept[0]["bytes"], len(kept[0]["line"])) == (100_001, 64 * 1024 + 3)


def test_samples_leave_and_lifecycle_stays(db: Any) -> None:
    ensure_indexes(db, INDEXES)
    expiry = db["events"].index_information()["expiry"]
    assert (expiry["key"], expiry["expireAfterSeconds"]) == ([("expireAt", 1)], 0)
    kept = StoredEvent(entry("a").event, "r1", 1, 1, NOW, is_sample=False)
    assert "expireAt" not in stored(kept)
    assert stored(entry("a"))["expireAt"] == datetime(2026, 1, 31, 13)


def test_dead_letters_are_limited_by_their_size(db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "DEAD_LETTERS_BYTES", 400_000)
    log = EventLog(db)
    for number in range(40):
        lines = [DeadLetter(b"x" * 10_000 + b"%d/%d" % (number, n), "bad_json", "x", None, NOW) for n in range(10)]
        log.add_dead_letters([replace(line, received_at=NOW + timedelta(seconds=number)) for line in lines])
    kept = list(db["events_dead"].find({}, {"receivedAt": 1, "bytes": 1}))
    assert 150_000 < sum(letter["bytes"] for letter in kept) <= 400_000
    oldest = min(letter["receivedAt"] for letter in kept)
    assert oldest > NOW + timedelta(seconds=5), "the newest are kept"


def test_an_event_that_no_prune_can_reach_expires() -> None:
    stamps = arrival_and_expiry(NOW)
    event = Event("e", "test://x", "ai.run.completed", "run/absent", NOW, {})
    assert "expireAt" not in event_document(event, "absent", None, 1, stamps, is_sample=False)
    assert "expireAt" in event_document(event, "absent", None, 1, stamps, is_sample=False, is_expiring=True)


@pytest.mark.parametrize("position", ["abc", float("nan"), float("inf"), None, [], {}], ids=repr)
def test_pages_leave_out_events_without_a_usable_position(log: EventLog, db: Any, position: Any) -> None:
    keep(log, [entry(f"e{n}", position=n) for n in (1, 2, 3)])
    db["events"].insert_one(stored(entry("bad")) | {"_id": "bad", "position": position})
    reader, found, cursor = EventReader(db), [], None
    while True:
        page = reader.read_page("r1", EventFilter(), 1, cursor)
        found += [event["_id"] for event in page.items]
        if (cursor := page.next_cursor) is None:
            break
    assert found == ["e3", "e2", "e1"]
    assert reader.last_position("r1") == 3


def test_the_events_of_a_run_are_limited(log: EventLog, db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "SAMPLES_LIMIT", 4)
    monkeypatch.setattr(event_log, "EVENTS_LIMIT", 6)
    lines = [entry(f"log{n}", n) for n in range(4)]
    facts = [msgspec.structs.replace(entry(f"fact{n}", n), is_sample=False) for n in range(4, 12)]
    keep(log, [*lines, *facts, *[entry(f"other{n}", n, run_id="r2") for n in range(4)]])
    keep(log, [entry(f"mixed{n}", n, run_id="r3") for n in range(3)])
    keep(log, [msgspec.structs.replace(entry(f"mixed{n}", n, run_id="r3"), is_sample=n != 3) for n in range(3, 6)])
    assert log.limit_events() == 6 + 2
    left = {str(each["_id"]) for each in db["events"].find({}, {"_id": 1})}
    assert left == {
        *(f"fact{n}" for n in range(6, 12)),  # facts beyond the larger limit are deleted, oldest first
        *(f"other{n}" for n in range(4)),  # at the limit
        *(f"mixed{n}" for n in range(2, 6)),
    }
    assert log.limit_events() == 0
