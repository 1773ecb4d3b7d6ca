"""A batch of lines on its way in: check, store, project. Nothing is acknowledged that is not stored.

Each line gets its own verdict; a bad one is refused alone and kept with the reason. Duplicates are projected
again, from what was stored first: that heals a crash between storing and projecting. The number of round trips
does not grow with the batch. HTTP is not known here.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from bson.raw_bson import RawBSONDocument
from pymongo.errors import BulkWriteError

from pod_worker.control.projections import Arrived, changes_of
from pod_worker.control.telemetry import Telemetry
from pod_worker.control.wire import Arrival, Refused, payload_of, read_line
from pod_worker.core.clock import Clock
from pod_worker.core.payload import RunLog
from pod_worker.store.event_log import DeadLine, Entry, EventLog, Unstorable, encoded
from pod_worker.store.mongo import Mongo
from pod_worker.store.views import Views

RECENT_TRANSIENT = 20_000

log = logging.getLogger(__name__)


class Verdict(StrEnum):
    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    FENCED = "fenced"  # of another attempt than the run's: stored, and no longer able to move the run
    INVALID = "invalid"


@dataclass(frozen=True, slots=True)
class Line:
    """One line's fate. `number` counts from 1."""

    number: int
    verdict: Verdict
    event_id: str | None = None
    code: str | None = None
    error: str | None = None


@dataclass(slots=True)
class _Pending:
    number: int
    arrival: Arrival
    line: bytes = b""
    attempt: int | None = None
    is_fenced: bool = False
    is_projected: bool = False
    document: RawBSONDocument | None = None
    verdict: Verdict = Verdict.ACCEPTED


@dataclass(slots=True)
class _Batch:
    received_at: datetime
    pending: list[_Pending] = field(default_factory=list)
    refused: list[tuple[int, bytes, Refused]] = field(default_factory=list)


class Ingest:
    """Thread-safe; every method blocks on the database."""

    def __init__(self, database: Mongo, clock: Clock, telemetry: Telemetry) -> None:
        self._log = EventLog(database)
        self._views = Views(database)
        self._clock = clock
        self._telemetry = telemetry
        self._recent = _Recent(RECENT_TRANSIENT)
        self._positions = _Positions()

    def take_lines(self, lines: Iterable[tuple[int, bytes]]) -> list[Line]:
        """Raises PyMongoError when the batch may not be stored; sending it again is then safe and needed."""
        batch = _Batch(self._clock.now())
        for number, line in lines:
            try:
                batch.pending.append(_Pending(number, read_line(line), line))
            except Refused as why:
                batch.refused.append((number, line, why))
        return self._take(batch)

    def take(self, arrivals: Sequence[Arrival]) -> list[Line]:
        """The same for events that were read elsewhere."""
        batch = _Batch(self._clock.now())
        batch.pending = [_Pending(number, arrival) for number, arrival in enumerate(arrivals, 1)]
        return self._take(batch)

    def refuse(self, line: bytes, why: Refused) -> None:
        """Keep a line that could not be read as an event."""
        self._take(_Batch(self._clock.now(), [], [(1, line, why)]))

    def _take(self, batch: _Batch) -> list[Line]:
        begun = self._clock.monotonic()
        self._fence(batch)
        self._encode(batch)
        repeated = self._store(batch)
        self._project(batch, repeated)
        self._log.bury(_dead(batch, number, line, why) for number, line, why in batch.refused)
        self._telemetry.batch_seconds.observe(self._clock.monotonic() - begun)
        self._telemetry.count(
            ((each.arrival.event.type, each.arrival.payload is not None, each.verdict) for each in batch.pending),
            [why.code for _, _, why in batch.refused],
        )
        return _lines(batch)

    def _fence(self, batch: _Batch) -> None:
        """Which attempt each event counts for, and whether the run has moved on to another."""
        run_ids = {run_id for each in batch.pending if (run_id := each.arrival.event.run_id)}
        attempts = self._views.attempts(sorted(run_ids)) if run_ids else {}
        for each in batch.pending:
            event = each.arrival.event
            current = attempts.get(event.run_id or "")
            each.attempt = event.attempt if event.attempt is not None else current
            if current is not None and each.attempt is not None:
                each.is_fenced = each.attempt != current
                each.verdict = Verdict.FENCED if each.is_fenced else Verdict.ACCEPTED
                # History of an earlier attempt still counts; nobody can know of an attempt that has not begun.
                each.is_projected = each.attempt <= current and each.arrival.payload is not None

    def _encode(self, batch: _Batch) -> None:
        kept: list[_Pending] = []
        position = self._positions.take(batch.received_at, len(batch.pending))
        for offset, each in enumerate(batch.pending):
            if _is_transient(each):
                each.arrival = _not_ahead(each.arrival, batch.received_at)
                kept.append(each)
                continue
            try:
                each.document = encoded(_entry(each, position + offset, batch.received_at))
                kept.append(each)
            except Unstorable as error:
                why = Refused("unstorable", str(error), each.arrival.event.id)
                batch.refused.append((each.number, each.line, why))
        batch.pending = kept

    def _store(self, batch: _Batch) -> list[Entry]:
        """Returns what was stored earlier under the ids that came again."""
        stored = [each for each in batch.pending if each.document is not None]
        outcome = self._log.append([each.document for each in stored if each.document is not None])
        for place in outcome.duplicates:
            stored[place].verdict, stored[place].is_projected = Verdict.DUPLICATE, False
        for place, error in outcome.refused.items():
            each = stored[place]
            why = Refused("unstorable", f"the database refused it: {error[:300]}", each.arrival.event.id)
            batch.refused.append((each.number, each.line, why))
        gone = {id(stored[place]) for place in outcome.refused}
        batch.pending = [each for each in batch.pending if id(each) not in gone]
        for each in batch.pending:
            if each.document is None and self._recent.has(each.arrival.event.id):
                each.verdict = Verdict.DUPLICATE
        ids = [stored[place].arrival.event.id for place in outcome.duplicates]
        return list(self._log.stored(ids).values()) if ids else []

    def _project(self, batch: _Batch, repeated: list[Entry]) -> None:
        arrived = [counted for pending in batch.pending if (counted := _arrived(pending))]
        if repeated:
            run_ids = sorted({run_id for entry in repeated if (run_id := entry.event.run_id)})
            arrived += arrived_from(repeated, self._views.attempts(run_ids))
        try:
            self._views.apply(changes_of(arrived))
        except BulkWriteError as error:
            # Stored, so nothing is lost: `pod-worker events rebuild` brings the view up to date. Refusing
            # the batch would only make its sender repeat it for ever.
            self._telemetry.projection_failures.inc()
            log.error("a batch was stored but not projected: %s", str(error.details)[:500])
        for each in batch.pending:
            if each.document is None:
                self._recent.add(each.arrival.event.id)


def arrived_from(entries: Iterable[Entry], attempts: dict[str, int]) -> list[Arrived]:
    """Stored entries as events that count: of runs that exist, of attempts that have begun."""
    found: list[Arrived] = []
    for entry in entries:
        event, run_id = entry.event, entry.event.run_id
        current = attempts.get(run_id or "")
        if run_id is None or current is None:
            continue
        attempt = entry.attempt if entry.attempt is not None else current
        try:
            payload = payload_of(event.type, event.data)
        except Refused:  # stored by a version with other rules
            continue
        if payload is not None and attempt <= current:
            found.append(Arrived(event, payload, run_id, attempt))
    return found


def _arrived(each: _Pending) -> Arrived | None:
    event, payload = each.arrival.event, each.arrival.payload
    if not each.is_projected or payload is None or event.run_id is None or each.attempt is None:
        return None
    return Arrived(event, payload, event.run_id, each.attempt)


def _is_transient(each: _Pending) -> bool:
    return each.arrival.payload is not None and each.arrival.payload.transient


def _not_ahead(arrival: Arrival, now: datetime) -> Arrival:
    """A heartbeat cannot come from the future: a pod's clock that is ahead would make it look alive for ever."""
    return replace(arrival, event=replace(arrival.event, time=min(arrival.event.time, now)))


def _entry(each: _Pending, position: int, received_at: datetime) -> Entry:
    payload = each.arrival.payload
    level = {"warning": "warn"}.get(payload.level, payload.level) if isinstance(payload, RunLog) else None
    is_sample = payload is not None and payload.sample
    return Entry(each.arrival.event, each.attempt, position, received_at, is_sample, level, each.is_fenced)


def _dead(batch: _Batch, number: int, line: bytes, why: Refused) -> DeadLine:
    return DeadLine(line, why.code, why.error, why.event_id, batch.received_at)


def _lines(batch: _Batch) -> list[Line]:
    good = [Line(each.number, each.verdict, each.arrival.event.id) for each in batch.pending]
    bad = [Line(number, Verdict.INVALID, why.event_id, why.code, why.error) for number, _, why in batch.refused]
    return sorted(good + bad, key=lambda line: line.number) if bad else good


class _Positions:
    """Microseconds since 1970, never the same twice in this process."""

    def __init__(self) -> None:
        self._next = 0
        self._lock = threading.Lock()

    def take(self, now: datetime, count: int) -> int:
        with self._lock:
            first = max(int(now.timestamp() * 1_000_000), self._next)
            self._next = first + count
            return first


class _Recent:
    """The ids of transient events seen lately: those are stored nowhere, and repeating one is still a repeat."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._ids: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()

    def has(self, event_id: str) -> bool:
        return event_id in self._ids

    def add(self, event_id: str) -> None:
        with self._lock:
            self._ids[event_id] = None
            while len(self._ids) > self._limit:
                self._ids.popitem(last=False)
