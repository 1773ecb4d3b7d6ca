"""Lines on their way in: check, store, project. Nothing is acknowledged that is not stored.

Each line gets its own verdict; a bad one is refused alone and kept with the reason. Duplicates are projected
again, from what was stored first: that heals a crash between storing and projecting. Any number of batches go
in together at the same number of round trips. HTTP is not known here.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime

from pymongo.errors import BulkWriteError

from pod_worker.control.batch import Batch, Line, Pending, Verdict
from pod_worker.control.projections import Arrived, changes_of
from pod_worker.control.telemetry import Telemetry
from pod_worker.control.wire import Arrival, Refused, payload_of
from pod_worker.core.clock import Clock
from pod_worker.core.payload import RunLog
from pod_worker.store.commit import OneWait
from pod_worker.store.event_log import DeadLine, Entry, EventLog
from pod_worker.store.mongo import Mongo
from pod_worker.store.views import Views

RECENT_TRANSIENT = 20_000

log = logging.getLogger(__name__)


class Ingest:
    """Thread-safe; blocks on the database."""

    def __init__(self, database: Mongo, clock: Clock, telemetry: Telemetry) -> None:
        self._wait = OneWait(database)
        self._views = Views(database)
        self._clock = clock
        self._telemetry = telemetry
        self._recent = _Recent(RECENT_TRANSIENT)
        self._positions = _Positions()

    def take(self, batch: Batch) -> list[Line]:
        return self.take_all([batch])[0]

    def take_all(self, batches: Sequence[Batch]) -> list[list[Line]]:
        """The fate of every line of every batch.

        Raises PyMongoError when something may not be stored; sending all of it again is then safe and needed.
        """
        begun, received_at = self._clock.monotonic(), self._clock.now()
        pending = [each for batch in batches for each in batch.pending]
        with self._wait.group() as group:
            events = EventLog(group.database)
            _fence(pending, self._views)
            self._enter(pending, received_at)
            repeated = _store(batches, events)
            events.bury(
                DeadLine(line, why.code, why.error, why.event_id, received_at)
                for batch in batches
                for _, line, why in batch.refused
            )
            # The views' writes wait for a majority, and so for everything before them.
            if self._project([each for batch in batches for each in batch.pending], repeated):
                group.has_waited = True
        self._telemetry.batch_seconds.observe(self._clock.monotonic() - begun)
        for batch in batches:
            self._settle(batch)
        return [batch.lines() for batch in batches]

    def _enter(self, pending: Sequence[Pending], received_at: datetime) -> None:
        """Make a log entry of everything that is kept."""
        position = self._positions.take(received_at, len(pending))
        for each in pending:
            payload = each.arrival.payload
            position += 1
            if payload is not None and payload.transient:
                each.arrival = _not_ahead(each.arrival, received_at)
            else:
                each.entry = _entry(each, position, received_at)

    def _project(self, pending: Sequence[Pending], repeated: list[Entry]) -> bool:
        for each in pending:
            if each.entry is None and self._recent.has(each.arrival.event.id):
                each.verdict = Verdict.DUPLICATE
        arrived = [counted for each in pending if (counted := _arrived(each))]
        if repeated:
            run_ids = sorted({run_id for entry in repeated if (run_id := entry.event.run_id)})
            arrived += arrived_from(repeated, self._views.attempts(run_ids))
        try:
            return self._views.apply(changes_of(arrived))
        except BulkWriteError as error:
            # Stored, so nothing is lost: `pod-worker events rebuild` brings the view up to date. Refusing
            # the batch would only make its sender repeat it for ever.
            self._telemetry.projection_failures.inc()
            log.error("a batch was stored but not projected: %s", str(error.details)[:500])
            return False

    def _settle(self, batch: Batch) -> None:
        for each in batch.pending:
            if each.entry is None:
                self._recent.add(each.arrival.event.id)
        events = (
            (each.arrival.event.type, each.arrival.payload is not None, each.verdict) for each in batch.pending
        )
        self._telemetry.count(events, [why.code for _, _, why in batch.refused])


def _fence(pending: Sequence[Pending], views: Views) -> None:
    """Which attempt each event counts for, and whether the run has moved on to another."""
    run_ids = {run_id for each in pending if (run_id := each.arrival.run_id)}
    attempts = views.attempts(sorted(run_ids)) if run_ids else {}
    for each in pending:
        event = each.arrival.event
        current = attempts.get(each.arrival.run_id or "")
        each.attempt = event.attempt if event.attempt is not None else current
        if current is not None and each.attempt is not None:
            each.is_fenced = each.attempt != current
            each.verdict = Verdict.FENCED if each.is_fenced else Verdict.ACCEPTED
            # History of an earlier attempt still counts; nobody can know of an attempt that has not begun.
            each.is_projected = each.attempt <= current and each.arrival.payload is not None


def _store(batches: Sequence[Batch], events: EventLog) -> list[Entry]:
    """Returns what was stored earlier under the ids that came again."""
    stored = [
        (batch, place, each.entry)
        for batch in batches
        for place, each in enumerate(batch.pending)
        if each.entry is not None
    ]
    outcome = events.append([entry for _, _, entry in stored])
    repeated: list[str] = []
    for index in outcome.duplicates:
        batch, place, _ = stored[index]
        each = batch.pending[place]
        each.verdict, each.is_projected = Verdict.DUPLICATE, False
        repeated.append(each.arrival.event.id)
    odd: dict[int, dict[int, Refused]] = {}
    for index, error in outcome.refused.items():
        batch, place, _ = stored[index]
        event_id = batch.pending[place].arrival.event.id
        why = Refused("unstorable", error[:500], event_id)
        odd.setdefault(id(batch), {})[place] = why
    for batch in batches:
        batch.refuse(odd.get(id(batch), {}))
    return list(events.stored(repeated).values()) if repeated else []


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


def _arrived(each: Pending) -> Arrived | None:
    arrival = each.arrival
    if not each.is_projected or arrival.payload is None or arrival.run_id is None or each.attempt is None:
        return None
    return Arrived(arrival.event, arrival.payload, arrival.run_id, each.attempt)


def _not_ahead(arrival: Arrival, now: datetime) -> Arrival:
    """A heartbeat cannot come from the future: a pod's clock that is ahead would make it look alive for ever."""
    event = replace(arrival.event, time=min(arrival.event.time, now))
    return Arrival(event, arrival.payload, arrival.run_id)


def _entry(each: Pending, position: int, received_at: datetime) -> Entry:
    payload = each.arrival.payload
    level = {"warning": "warn"}.get(payload.level, payload.level) if isinstance(payload, RunLog) else None
    is_sample = payload is not None and payload.sample
    return Entry(
        each.arrival.event,
        each.arrival.run_id,
        each.attempt,
        position,
        received_at,
        is_sample,
        level,
        each.is_fenced,
    )


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
