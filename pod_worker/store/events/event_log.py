"""The event log: every event once, by its id, in the order of arrival.

Views are rebuilt from it.

The unique id *is* the deduplication. `position` (microseconds of arrival plus the index in the batch) orders the
log, pages it and resumes live views; it never decides which event is newer. `limit_events` bounds the events of a
run. Refused lines are kept beside it as dead letters: for thirty days, and at most DEAD_LETTERS_BYTES of them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

import bson
import msgspec
from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.errors import BulkWriteError, WriteConcernError

from pod_worker.core.event import Event
from pod_worker.core.run import Json
from pod_worker.store.collections import DEAD_LETTERS, EVENTS
from pod_worker.store.document_fields import integer, moment, text, typed
from pod_worker.store.errors import DUPLICATE_KEY, ENCODING_ERRORS, is_duplicate_only
from pod_worker.store.mongo import Document, Mongo, tolerant_rows

KEPT_DAYS = 30
DEAD_LETTER_TEXT_LIMIT = 64 * 1024
DEAD_LETTERS_BYTES = 64 * 1024 * 1024
SAMPLES_LIMIT = 1_000_000  # newest events of one run, beyond which its samples (logs and metrics) are deleted
EVENTS_LIMIT = 2_000_000  # newest events of one run, beyond which every event is deleted
REPLAY_BATCH = 1000
SEQ_LIMIT = 10**12
ATTEMPT_LIMIT = 10**8
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
    """An event as read from the log. `attempt` is the one it counts for."""

    event: Event
    run_id: str | None
    attempt: int | None
    position: int
    received_at: datetime
    is_sample: bool  # deleted after thirty days
    level: str | None = None
    is_fenced: bool = False


@dataclass(frozen=True, slots=True)
class AppendResult:
    """The result of a batch, by index: duplicates, and what the server refused."""

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
        self._database = database
        self._events = tolerant_rows(database, EVENTS)
        self._dead_letters = tolerant_rows(database, DEAD_LETTERS)

    def append(self, documents: Sequence[Document]) -> AppendResult:
        """Store the documents that `event_document` made, in as many messages as needed.

        What BSON cannot hold is refused alone and does not fail the rest. Raises PyMongoError when the result is
        unknown.
        """
        rejected = {index: reason for index, each in enumerate(documents) if (reason := _encoding_fault(each))}
        accepted = [index for index in range(len(documents)) if index not in rejected]
        if not accepted:
            return AppendResult(frozenset(), rejected)
        try:
            self._events.insert_many([documents[index] for index in accepted], ordered=False)
        except BulkWriteError as error:
            found = append_result(error.details["writeErrors"], error.details.get("writeConcernErrors"))
            refused = {accepted[index]: reason for index, reason in found.refused.items()}
            return AppendResult(frozenset(accepted[index] for index in found.duplicates), rejected | refused)
        return AppendResult(frozenset(), rejected)

    def stored(self, ids: Sequence[str]) -> dict[str, StoredEvent]:
        """The events with these ids, as they were stored first."""
        found = self._events.find({"_id": {"$in": list(ids)}})
        return {stored.event.id: stored for each in found if (stored := stored_event_from_document(each))}

    def replay(self, run_id: str, since: int = 0) -> Iterator[StoredEvent]:
        """The readable events of a run, oldest first, from that position on."""
        wanted: Document = {"runId": run_id} | ({"position": {"$gte": since}} if since else {})
        found = self._events.find(wanted).sort("position", ASCENDING).batch_size(REPLAY_BATCH)
        for document in found:
            stored = stored_event_from_document(document)
            if stored is not None:
                yield stored

    def run_ids(self) -> Iterator[str]:
        """Every run that has events."""
        for group in self._events.aggregate([{"$group": {"_id": "$runId"}}]):
            if isinstance(group["_id"], str):
                yield group["_id"]

    def limit_events(self) -> int:
        """Delete the oldest events of every run beyond the limits; returns how many."""
        samples: Document = {"expireAt": {"$exists": True}}
        return sum(
            self._delete_before_newest(run_id, limit, condition)
            for run_id in self.run_ids()
            for limit, condition in ((SAMPLES_LIMIT, samples), (EVENTS_LIMIT, {}))
        )

    def _delete_before_newest(self, run_id: str, kept: int, condition: Document) -> int:
        newest_first = self._events.find({"runId": run_id}, {"position": 1, "_id": 0}).sort("position", DESCENDING)
        for beyond in newest_first.skip(kept).limit(1):
            old = {"runId": run_id, "position": {"$lte": beyond.get("position")}}
            return self._events.delete_many(old | condition).deleted_count
        return 0

    def add_dead_letters(self, lines: Iterable[DeadLetter]) -> None:
        """Keep refused lines, and delete the oldest ones beyond the limit.

        A repeated line is one row.
        """
        documents = [_dead_letter_document(line) for line in lines]
        if not documents:
            return
        try:
            self._dead_letters.insert_many(documents, ordered=False)
        except BulkWriteError as error:
            if not is_duplicate_only(error):
                raise
        self._limit_dead_letters()

    def _limit_dead_letters(self) -> None:
        stats = next(iter(self._dead_letters.aggregate([{"$collStats": {"storageStats": {}}}])))["storageStats"]
        size, count = stats["size"], stats["count"]
        if size <= DEAD_LETTERS_BYTES:
            return
        # A quarter more than needed, so that a flood of refused lines does not delete at each batch.
        surplus = math.ceil(count * (1 - 0.75 * DEAD_LETTERS_BYTES / size))
        oldest = self._dead_letters.find({}, {"_id": 1}).sort("receivedAt", ASCENDING).limit(surplus)
        self._dead_letters.delete_many({"_id": {"$in": [letter["_id"] for letter in oldest]}})


def event_document(
    event: Event,
    run_id: str | None,
    attempt: int | None,
    position: int,
    stamps: Stamps,
    is_sample: bool,
    level: str | None = None,
    is_fenced: bool = False,
    *,
    is_expiring: bool = False,
) -> Document:
    """The document of a `StoredEvent`.

    Samples are deleted after thirty days, as is every event with `is_expiring`: one of an unknown type, or of a
    run that does not exist and so will never be pruned.
    """
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
    if is_sample or is_expiring:
        document["expireAt"] = expire_at
    if not is_sample or level in ("warn", "error"):
        document["notable"] = True
    return document


def arrival_and_expiry(received_at: datetime) -> Stamps:
    """Both without a time zone, which the driver encodes faster and reads as UTC."""
    arrival = received_at.astimezone(UTC).replace(tzinfo=None)
    # Whole hours, because many equal keys make a small index.
    return arrival, arrival.replace(minute=0, second=0, microsecond=0) + timedelta(days=KEPT_DAYS, hours=1)


def _encoding_fault(document: Document) -> str | None:
    try:
        bson.encode(document)
    except ENCODING_ERRORS as error:
        return f"data cannot be stored: {error}"
    return None


def append_result(errors: Sequence[Document], concern: Json) -> AppendResult:
    """The result of an insert from the server's reply.

    Raises WriteConcernError when a majority may lack the inserted documents.
    """
    if concern:
        raise WriteConcernError(f"a majority may lack the events: {concern}")
    known = frozenset(each["index"] for each in errors if each["code"] == DUPLICATE_KEY)
    return AppendResult(known, {each["index"]: each["errmsg"] for each in errors if each["index"] not in known})


def stored_event_from_document(document: Document) -> StoredEvent | None:
    """None for a document that is no event.

    Never raises, except for a document without `_id`.
    """
    time, kind, data = moment(document, "time"), text(document, "type"), typed(document, "data", dict)
    if time is None or kind is None or data is None:
        return None
    attempt, run_id = _below(document.get("attempt"), ATTEMPT_LIMIT), text(document, "runId")
    event = Event(
        id=str(document["_id"]),
        source=text(document, "source") or "",
        type=kind,
        subject=f"run/{run_id}" if run_id else text(document, "subject") or "",
        time=time,
        data=data,
        seq=_below(document.get("seq"), SEQ_LIMIT),
        attempt=None if document.get("isAttemptImplied") is True else attempt,
        traceparent=text(document, "traceparent"),
    )
    return StoredEvent(
        event=event,
        run_id=event.run_id,
        attempt=attempt,
        position=integer(document.get("position")) or 0,
        received_at=moment(document, "receivedAt") or time,
        is_sample="expireAt" in document,
        level=text(document, "level"),
        is_fenced=document.get("isFenced") is True,
    )


def _dead_letter_document(line: DeadLetter) -> Document:
    return {
        "_id": hashlib.sha256(line.code.encode() + b"\0" + line.text).hexdigest(),
        "line": line.text[:DEAD_LETTER_TEXT_LIMIT].decode("utf-8", "backslashreplace"),
        "bytes": len(line.text),
        "code": line.code,
        "error": line.error,
        "eventId": line.event_id,
        "receivedAt": line.received_at,
    }


def _below(value: Json, limit: int) -> int | None:
    number = integer(value)
    return number if number is not None and 0 <= number < limit else None
