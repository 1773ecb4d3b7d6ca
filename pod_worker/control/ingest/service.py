"""Lines on their way in: check, store, hand on to the views. Nothing is acknowledged that is not stored.

Each line gets its own verdict; a bad one is refused alone and kept with the reason. Duplicates are projected
again, from what was stored first. Any number of batches go in together at the same number of round trips. HTTP is
not known here.
"""

from __future__ import annotations

from asyncio import to_thread
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from datetime import datetime

from pod_worker.control.events.decoding import InvalidEventError
from pod_worker.control.events.incoming import IncomingEvent, IngestResult
from pod_worker.control.events.projections import project
from pod_worker.control.events.projector import Projector
from pod_worker.control.events.replayed import events_for_replay
from pod_worker.control.ingest.attempt_cache import AttemptCache
from pod_worker.control.ingest.batch import IngestBatch, LineResult
from pod_worker.control.metrics import ControlPlaneMetrics
from pod_worker.core.clock import Clock
from pod_worker.core.event import Event
from pod_worker.core.payload import Payload, RunLog
from pod_worker.store.events.event_log import (
    AppendResult,
    DeadLetter,
    EventLog,
    arrival_and_expiry,
    event_document,
)
from pod_worker.store.events.event_writer import EventWriter
from pod_worker.store.mongo import Document, Mongo
from pod_worker.store.views.writer import Views

RECENT_TRANSIENT = 20_000


class Ingest:
    """For one event loop, which it never holds up for the database."""

    def __init__(self, database: Mongo, clock: Clock, telemetry: ControlPlaneMetrics) -> None:
        self.projector = Projector(database, clock, telemetry.projection_failures.inc)
        telemetry.waiting_events.set_function(self.projector.waiting_events)
        self._log = EventLog(database)
        self._writer = EventWriter(database, self._log)
        self._views = Views(database)
        self._attempts = AttemptCache(self._views, clock)
        self._clock = clock
        self._telemetry = telemetry
        self._recent = _RecentIds(RECENT_TRANSIENT)

    async def close(self) -> None:
        """The views are brought up to date first."""
        await to_thread(self.projector.close)
        await self._writer.close()

    async def ingest_and_wait(self, batch: IngestBatch) -> list[LineResult]:
        """The fate of every line, once the views tell of them too (if MongoDB lets them, for a while)."""
        await self.ingest([batch])
        await to_thread(self.projector.wait_until_projected)
        return batch.line_results()

    async def ingest(self, batches: Sequence[IngestBatch]) -> None:
        """Decide the fate of every line of every batch; the views follow soon.

        Raises PyMongoError when something may not be stored (sending all of it again is then safe and needed),
        ProblemError 503 when the views are too far behind.
        """
        begun, received_at = self._clock.monotonic(), self._clock.now()
        arrivals = [each for batch in batches for each in batch.arrivals]
        await self._resolve_attempts(arrivals)
        run_ids = frozenset([each.run_id for each in arrivals if each.is_projected and each.run_id])
        async with self.projector.reserve(run_ids, len(arrivals), received_at) as promise:
            documents, stored, transient = _log_documents(arrivals, promise.position, received_at)
            json_bytes = sum([batch.json_bytes() for batch in batches])
            outcome = await self._writer.append(documents, json_bytes=json_bytes)
            if outcome.duplicates:
                await to_thread(self._project_again, [stored[place] for place in outcome.duplicates])
            _reject_unstorable(outcome, stored, batches)
            self._recent.look_for(transient)
            kept = [each for batch in batches for each in batch.arrivals if each.is_projected]
            promise.changes, promise.count = project(kept), len(kept)
        self._recent.add(transient)
        await self._store_dead_letters(batches, received_at)
        self._telemetry.batch_seconds.observe(self._clock.monotonic() - begun)
        self._count(batches)

    async def _resolve_attempts(self, arrivals: Sequence[IncomingEvent]) -> None:
        """Which attempt each event counts for, and whether the run has moved on to another."""
        claims = {(each.run_id, each.event.attempt) for each in arrivals}
        attempts = self._attempts.get_cached(claims)
        if attempts is None:
            attempts = await to_thread(self._attempts.get, claims)
        standings = {claim: _resolve_attempt(claim[1], attempts.get(claim[0] or "")) for claim in claims}
        for each in arrivals:
            each.attempt, each.verdict, is_begun = standings[each.run_id, each.event.attempt]
            each.is_projected = is_begun and each.payload is not None

    def _project_again(self, repeated: Sequence[IncomingEvent]) -> None:
        """Repeated events, as they were stored first, and before the answer: whoever stored them may have promised
        nothing, or have taken its note back when storing failed half-way."""
        known = self._log.stored([each.event.id for each in repeated])
        for each in repeated:
            each.verdict = IngestResult.DUPLICATE
            if each.event.id in known:
                each.is_projected = False  # what was stored is, not what was sent
        run_ids = sorted({run_id for entry in known.values() if (run_id := entry.event.run_id)})
        self.projector.apply_now(project(events_for_replay(known.values(), self._views.current_attempts(run_ids))))

    async def _store_dead_letters(self, batches: Sequence[IngestBatch], received_at: datetime) -> None:
        dead = [
            DeadLetter(line, why.code, why.error, why.event_id, received_at)
            for batch in batches
            for _, line, why in batch.refused
        ]
        if dead:
            await to_thread(self._log.add_dead_letters, dead)

    def _count(self, batches: Sequence[IngestBatch]) -> None:
        arrivals = [each for batch in batches for each in batch.arrivals]
        for verdict in {each.verdict for each in arrivals}:
            self._telemetry.count_events(
                verdict, [each.event.type for each in arrivals if each.verdict is verdict]
            )
        self._telemetry.count_invalid([why.code for batch in batches for _, _, why in batch.refused])


def _resolve_attempt(claimed: int | None, current: int | None) -> tuple[int | None, IngestResult, bool]:
    """The attempt that an event counts for, what becomes of it, whether that attempt has begun."""
    attempt = claimed if claimed is not None else current
    if current is None or attempt is None:
        return attempt, IngestResult.ACCEPTED, False
    # History of an earlier attempt still counts; nobody can know of an attempt that has not begun.
    return attempt, IngestResult.ACCEPTED if attempt == current else IngestResult.FENCED, attempt <= current


def _log_documents(
    arrivals: Sequence[IncomingEvent], position: int, received_at: datetime
) -> tuple[list[Document], list[IncomingEvent], list[IncomingEvent]]:
    """What goes into the log, the events it is of, and those that the log does not keep."""
    documents: list[Document] = []
    stored: list[IncomingEvent] = []
    transient: list[IncomingEvent] = []
    stamps = arrival_and_expiry(received_at)
    for place, each in enumerate(arrivals, position):
        event, payload = each.event, each.payload
        if payload is not None and payload.transient:
            each.event = _clamp_future_time(event, received_at)
            transient.append(each)
            continue
        is_sample = payload is not None and payload.sample
        level = _level(payload) if event.type == RunLog.type else None
        is_fenced = each.verdict is IngestResult.FENCED
        documents.append(
            event_document(event, each.run_id, each.attempt, place, stamps, is_sample, level, is_fenced)
        )
        stored.append(each)
    return documents, stored, transient


def _level(payload: Payload | None) -> str:
    level: str = getattr(payload, "level", "info")
    return "warn" if level == "warning" else level


def _clamp_future_time(event: Event, now: datetime) -> Event:
    """A heartbeat cannot come from the future: a pod's clock that is ahead would make it look alive for ever."""
    if event.time <= now:
        return event
    told = (event.seq, event.attempt, event.traceparent)
    return Event(event.id, event.source, event.type, event.subject, now, event.data, *told)


def _reject_unstorable(
    outcome: AppendResult, stored: Sequence[IncomingEvent], batches: Sequence[IngestBatch]
) -> None:
    """What the database would not take."""
    if not outcome.refused:
        return
    odd = {
        id(stored[place]): InvalidEventError("unstorable", error[:500], stored[place].event.id)
        for place, error in outcome.refused.items()
    }
    for batch in batches:
        batch.reject(odd)


class _RecentIds:
    """The ids of transient events seen lately: those are stored nowhere, and repeating one is still a repeat."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._ids: OrderedDict[str, None] = OrderedDict()

    def look_for(self, transient: Iterable[IncomingEvent]) -> None:
        """Mark those that were here before."""
        for each in transient:
            if each.event.id in self._ids:
                each.verdict = IngestResult.DUPLICATE

    def add(self, transient: Iterable[IncomingEvent]) -> None:
        for each in transient:
            self._ids[each.event.id] = None
        while len(self._ids) > self._limit:
            self._ids.popitem(last=False)
