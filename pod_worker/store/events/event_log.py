"""The event log: every event once, by its id, in the order of arrival. What is in it is what counts.

The unique id *is* the deduplication. `position` (microseconds of arrival plus the place in the batch) orders the
log, pages it and resumes live views; it never decides which event is newer. Lines that were refused are kept
beside it for thirty days, with the reason.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

import bson
import msgspec
from pymongo import ASCENDING, IndexModel
from pymongo.errors import BulkWriteError, WriteConcernError

from pod_worker.core.event import Event
from pod_worker.core.run import Json
from pod_worker.store.collections import DEAD_LETTERS, EVENTS
from pod_worker.store.errors import DUPLICATE_KEY, ENCODING_ERRORS, is_duplicate_only
from pod_worker.store.mongo import Document, Mongo

KEPT_DAYS = 30
DEAD_LINE_LIMIT = 64 * 1024
REPLAY_BATCH = 1000
LEVELS = ("debug", "info", "warn", "error")

INDEXES: dict[str, list[IndexModel]] = {
    EVENTS: [
        IndexModel([("runId", ASCENDING), ("position", ASCENDING)], name="run"),
        # Lifecycle events and warnings are few among many samples: a small index finds them at once.
        IndexModel(
            [("runId", ASCENDING), ("type", ASCENDING), ("position", ASCENDING)],
            name="notable",
            partialFilterExpression={"notable": True},
        ),
        IndexModel([("expireAt", ASCENDING)], name="expiry", expireAfterSeconds=0),
    ],
    DEAD_LETTERS: [IndexModel([("receivedAt", ASCENDING)], name="expiry", expireAfterSeconds=KEPT_DAYS * 86400)],
}

Stamps: TypeAlias = tuple[datetime, datetime]  # of arrival and of expiry


class StoredEvent(msgspec.Struct, frozen=True):
    """An event as it comes from the log. `attempt` is the one it counts for."""

    event: Event
    run_id: str | None
    attempt: int | None
    position: int
    received_at: datetime
    is_sample: bool  # kept for thirty days only
    level: str | None = None
    is_fenced: bool = False


@dataclass(frozen=True, slots=True)
class AppendResult:
    """What became of a batch, by place: whose id was there already, and what the server would not take."""

    duplicates: frozenset[int]
    refused: dict[int, str]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    text: bytes
    code: str
    error: str
    event_id: str | None
    received_at: datetime


class EventLog:
    def __init__(self, database: Mongo) -> None:
        self._events = database[EVENTS]
        self._dead = database[DEAD_LETTERS]

    def append(self, documents: Sequence[Document]) -> AppendResult:
        """Store in as many messages as it takes, retried by the driver, without what BSON cannot hold: that must
        not fail its neighbours. `documents` as `event_document` makes them.

        Raises PyMongoError when it is not certain what became of them.
        """
        odd = {place: why for place, each in enumerate(documents) if (why := _unencodable(each))}
        places = [place for place in range(len(documents)) if place not in odd]
        if not places:
            return AppendResult(frozenset(), odd)
        try:
            self._events.insert_many([documents[place] for place in places], ordered=False)
        except BulkWriteError as error:
            found = append_result(error.details["writeErrors"], error.details.get("writeConcernErrors"))
            refused = {places[index]: why for index, why in found.refused.items()}
            return AppendResult(frozenset(places[index] for index in found.duplicates), odd | refused)
        return AppendResult(frozenset(), odd)

    def stored(self, ids: Sequence[str]) -> dict[str, StoredEvent]:
        """The entries with these ids, as they were stored first."""
        found = self._events.find({"_id": {"$in": list(ids)}})
        return {entry.event.id: entry for each in found if (entry := stored_event_from_document(each))}

    def replay(self, run_id: str, since: int = 0) -> Iterator[StoredEvent]:
        """Every entry of a run that can still be read, oldest first, from that position on."""
        wanted: Document = {"runId": run_id} | ({"position": {"$gte": since}} if since else {})
        found = self._events.find(wanted).sort("position", ASCENDING).batch_size(REPLAY_BATCH)
        for document in found:
            entry = stored_event_from_document(document)
            if entry is not None:
                yield entry

    def run_ids(self) -> Iterator[str]:
        """Every run that has events."""
        for each in self._events.aggregate([{"$group": {"_id": "$runId"}}]):
            if isinstance(each["_id"], str):
                yield each["_id"]

    def add_dead_letters(self, lines: Iterable[DeadLetter]) -> None:
        """Keep refused lines. The same line refused again is the same row."""
        documents = [_dead_letter_document(line) for line in lines]
        if not documents:
            return
        try:
            self._dead.insert_many(documents, ordered=False)
        except BulkWriteError as error:
            if not is_duplicate_only(error):
                raise


def event_document(
    event: Event,
    run_id: str | None,
    attempt: int | None,
    position: int,
    stamps: Stamps,
    is_sample: bool,
    level: str | None = None,
    is_fenced: bool = False,
) -> Document:
    """The fields are `Entry`'s."""
    received_at, expire_at = stamps
    document: Document = {
        "_id": event.id,
        "runId": run_id,
        "attempt": attempt,
        "seq": event.seq,
        "type": event.type,
        "time": event.time,
        "receivedAt": received_at,
        "position": position,
        "source": event.source,
        "data": event.data,
    }
    if run_id is None:
        document["subject"] = event.subject
    if event.attempt is None:
        document["isAttemptImplied"] = True
    if event.traceparent:
        document["traceparent"] = event.traceparent
    if is_fenced:
        document["isFenced"] = True
    if level:
        document["level"] = level
    if is_sample:
        document["expireAt"] = expire_at
    if not is_sample or level in ("warn", "error"):
        document["notable"] = True
    return document


def arrival_and_expiry(received_at: datetime) -> Stamps:
    """Without a time zone: the driver takes that for UTC, and need not ask each one for it."""
    arrival = received_at.astimezone(UTC).replace(tzinfo=None)
    # Whole hours: many equal keys make a small index.
    return arrival, arrival.replace(minute=0, second=0, microsecond=0) + timedelta(days=KEPT_DAYS, hours=1)


def _unencodable(document: Document) -> str | None:
    try:
        bson.encode(document)
    except ENCODING_ERRORS as error:
        return f"data cannot be stored: {error}"
    return None


def append_result(errors: Sequence[Document], concern: Json) -> AppendResult:
    """What the server said of each document it did not insert. Raises WriteConcernError where a majority may not
    have the others."""
    if concern:
        raise WriteConcernError(f"a majority may not have the events: {concern}")
    known = frozenset(each["index"] for each in errors if each["code"] == DUPLICATE_KEY)
    return AppendResult(known, {each["index"]: each["errmsg"] for each in errors if each["index"] not in known})


def stored_event_from_document(document: Document) -> StoredEvent | None:
    """None for a document that is no event of ours (reads are tolerant)."""
    time, received_at, data = document.get("time"), document.get("receivedAt"), document.get("data")
    if not isinstance(time, datetime) or not isinstance(data, dict) or not isinstance(document.get("type"), str):
        return None
    attempt, run_id = _integer(document.get("attempt")), document.get("runId")
    event = Event(
        id=str(document["_id"]),
        source=str(document.get("source", "")),
        type=document["type"],
        subject=f"run/{run_id}" if run_id else str(document.get("subject", "")),
        time=time,
        data=data,
        seq=_integer(document.get("seq")),
        attempt=None if document.get("isAttemptImplied") else attempt,
        traceparent=document.get("traceparent"),
    )
    return StoredEvent(
        event=event,
        run_id=event.run_id,
        attempt=attempt,
        position=_integer(document.get("position")) or 0,
        received_at=received_at if isinstance(received_at, datetime) else time,
        is_sample="expireAt" in document,
        level=document.get("level"),
        is_fenced=bool(document.get("isFenced")),
    )


def _dead_letter_document(line: DeadLetter) -> Document:
    return {
        "_id": hashlib.sha256(line.code.encode() + b"\0" + line.text).hexdigest(),
        "line": line.text[:DEAD_LINE_LIMIT].decode("utf-8", "backslashreplace"),
        "bytes": len(line.text),
        "code": line.code,
        "error": line.error,
        "eventId": line.event_id,
        "receivedAt": line.received_at,
    }


def _integer(value: Json) -> int | None:
    return int(value) if isinstance(value, int | float) else None
