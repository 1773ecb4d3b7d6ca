"""Lines on their way in: check, store, hand on to the views. Nothing is acknowledged that is not stored.

Each line gets its own verdict; a bad one is refused alone and kept with the reason. Duplicates are projected
again, from what was stored first. Any number of batches go in together at the same number of round trips. HTTP is
not known here.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from pod_worker.control.arrived import Arrived, arrived_from
from pod_worker.control.attempts import Attempts
from pod_worker.control.batch import Batch, Line, Pending, Verdict
from pod_worker.control.projector import Projector
from pod_worker.control.telemetry import Telemetry
from pod_worker.control.wire import Arrival, Refused
from pod_worker.core.clock import Clock
from pod_worker.core.payload import RunLog
from pod_worker.store.event_log import DeadLine, Entry, EventLog
from pod_worker.store.mongo import Mongo
from pod_worker.store.views import Views

RECENT_TRANSIENT = 20_000


class Ingest:
    """Thread-safe; blocks on the database."""

    def __init__(self, database: Mongo, clock: Clock, telemetry: Telemetry) -> None:
        self.projector = Projector(database, clock, telemetry.projection_failures.inc)
        telemetry.waiting_events.set_function(self.projector.waiting_events)
        self._events = EventLog(database)
        self._views = Views(database)
        self._attempts = Attempts(self._views, clock)
        self._clock = clock
        self._telemetry = telemetry
        self._recent = _Recent(RECENT_TRANSIENT)

    def take(self, batch: Batch) -> list[Line]:
        """The fate of every line, once the views tell of them too (if MongoDB lets them, for a while)."""
        self.take_all([batch])
        self.projector.settle()
        return batch.lines()

    def take_all(self, batches: Sequence[Batch]) -> None:
        """Decide the fate of every line of every batch; the views follow soon.

        Raises PyMongoError when something may not be stored (sending all of it again is then safe and needed),
        Problem 503 when the views are too far behind.
        """
        begun, received_at = self._clock.monotonic(), self._clock.now()
        pending = [each for batch in batches for each in batch.pending]
        _fence(pending, self._attempts)
        run_ids = frozenset(each.arrival.run_id for each in pending if each.is_projected and each.arrival.run_id)
        with self.projector.promise(run_ids, len(pending), received_at) as promise:
            self._enter(pending, promise.position, received_at)
            repeated = _store(batches, self._events)
            self._project_again(repeated)
            promise.arrived = self._arrived(batches)
        self._events.bury(
            DeadLine(line, why.code, why.error, why.event_id, received_at)
            for batch in batches
            for _, line, why in batch.refused
        )
        self._telemetry.batch_seconds.observe(self._clock.monotonic() - begun)
        for batch in batches:
            self._settle(batch)

    def _enter(self, pending: Sequence[Pending], position: int, received_at: datetime) -> None:
        """Make a log entry of everything that is kept."""
        for place, each in enumerate(pending, position):
            payload = each.arrival.payload
            if payload is not None and payload.transient:
                each.arrival = _not_ahead(each.arrival, received_at)
            else:
                each.entry = _entry(each, place, received_at)

    def _project_again(self, repeated: list[Entry]) -> None:
        """Repeated events, as they were stored first, and before the answer: whoever stored them may have promised
        nothing, or have taken its note back when storing failed half-way."""
        if repeated:
            run_ids = sorted({run_id for entry in repeated if (run_id := entry.event.run_id)})
            self.projector.at_once(arrived_from(repeated, self._views.attempts(run_ids)))

    def _arrived(self, batches: Sequence[Batch]) -> list[Arrived]:
        """What the views are to hear of."""
        pending = [each for batch in batches for each in batch.pending]
        for each in pending:
            if each.entry is None and self._recent.has(each.arrival.event.id):
                each.verdict = Verdict.DUPLICATE
        return [counted for each in pending if (counted := _arrived(each))]

    def _settle(self, batch: Batch) -> None:
        for each in batch.pending:
            if each.entry is None:
                self._recent.add(each.arrival.event.id)
        events = [
            (each.arrival.event.type, each.arrival.payload is not None, each.verdict) for each in batch.pending
        ]
        self._telemetry.count(events, [why.code for _, _, why in batch.refused])


def _fence(pending: Sequence[Pending], known: Attempts) -> None:
    """Which attempt each event counts for, and whether the run has moved on to another."""
    attempts = known.of({(each.arrival.run_id, each.arrival.event.attempt) for each in pending})
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
    json_bytes = sum(len(each.line) for batch in batches for each in batch.pending)
    outcome = events.append([entry for _, _, entry in stored], json_bytes=json_bytes)
    repeated = [stored[index][0].pending[stored[index][1]] for index in outcome.duplicates]
    known = events.stored([each.arrival.event.id for each in repeated]) if repeated else {}
    for each in repeated:
        each.verdict = Verdict.DUPLICATE
        if each.arrival.event.id in known:
            each.is_projected = False  # what was stored is, not what was sent
    odd: dict[int, dict[int, Refused]] = {}
    for index, error in outcome.refused.items():
        batch, place, _ = stored[index]
        event_id = batch.pending[place].arrival.event.id
        why = Refused("unstorable", error[:500], event_id)
        odd.setdefault(id(batch), {})[place] = why
    for batch in batches:
        batch.refuse(odd.get(id(batch), {}))
    return list(known.values())


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
