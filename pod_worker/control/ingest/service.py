"""Checks and stores incoming events and hands them to the projector.

Nothing is acknowledged before it is stored.

Each line gets its own result; a bad line is refused alone and kept with the reason. Duplicates are projected again
from what was stored first. Any number of batches costs the same number of round trips. HTTP is not known here.
"""

from __future__ import annotations

from asyncio import to_thread
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from pod_worker.control.events.incoming import IncomingEvent, IngestResult, InvalidEventError
from pod_worker.control.events.projections import project
from pod_worker.control.events.projector import Projector
from pod_worker.control.events.replay import events_for_replay
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
SEQ_JUMP = 10_000_000  # one attempt at 100 events a second takes a day for so many
FUTURE_TOLERANCE = timedelta(minutes=5)  # how far an emitter's clock may be ahead


class Ingest:
    """For one event loop, which it never blocks on the database."""

    def __init__(self, database: Mongo, clock: Clock, metrics: ControlPlaneMetrics) -> None:
        self.projector = Projector(database, clock, metrics.projection_failures.inc)
        metrics.waiting_events.set_function(self.projector.waiting_events)
        self._log = EventLog(database)
        self._writer = EventWriter(database, self._log)
        self._views = Views(database)
        self._attempts = AttemptCache(self._views, clock)
        self._clock = clock
        self._metrics = metrics
        self._recent = _RecentIds(RECENT_TRANSIENT)

    async def close(self) -> None:
        """End after the views are up to date."""
        await to_thread(self.projector.close)
        await self._writer.close()

    async def ingest_and_wait(self, batch: IngestBatch) -> list[LineResult]:
        """Ingest, then wait a bounded time until the views show the events."""
        await self.ingest([batch])
        await to_thread(self.projector.wait_until_projected)
        return batch.line_results()

    async def ingest(self, batches: Sequence[IngestBatch]) -> None:
        """Set the result of every line of every batch; the views follow soon.

        Raises PyMongoError when storing is uncertain (sending all of it again is then safe and needed) and
        ProblemError 503 when the views are too far behind.
        """
        begun, received_at = self._clock.monotonic(), self._clock.now()
        events = [each for batch in batches for each in batch.events]
        if await self._resolve_attempts(events):
            await self._refuse_seq_jumps(events, batches)
            events = [each for batch in batches for each in batch.events]
        run_ids = frozenset([each.run_id for each in events if each.is_projected and each.run_id])
        async with self.projector.reserve(run_ids, len(events), received_at) as ticket:
            documents, stored, transient = _log_documents(events, ticket.position, received_at)
            json_bytes = sum([batch.json_bytes() for batch in batches])
            appended = await self._writer.append(documents, json_bytes=json_bytes)
            if appended.duplicates:
                await to_thread(self._project_again, [stored[index] for index in appended.duplicates])
                for batch in batches:
                    batch.drop_refused_events()
            _refuse_unstorable(appended, stored, batches)
            self._recent.mark_repeated(transient)
            kept = [each for batch in batches for each in batch.events if each.is_projected]
            ticket.changes, ticket.count = project(kept), len(kept)
        self._recent.add(transient)
        await self._store_dead_letters(batches, received_at)
        self._metrics.batch_seconds.observe(self._clock.monotonic() - begun)
        self._count(batches)

    async def _refuse_seq_jumps(self, events: Sequence[IncomingEvent], batches: Sequence[IngestBatch]) -> None:
        """Refuse a `seq` far beyond its run's last one.

        It would win over every later event of its attempt.
        """
        high = [each for each in events if (each.event.seq or 0) > SEQ_JUMP and each.event.attempt is not None]
        last = await to_thread(self._views.last_seqs, sorted({each.run_id for each in high if each.run_id}))
        for each in high:
            limit = last.get(each.run_id or "", 0) + SEQ_JUMP
            if each.event.seq is not None and each.event.seq > limit:
                error = f"seq {each.event.seq} is more than {SEQ_JUMP} beyond the last one: seq counts from 1"
                each.refusal = InvalidEventError("seq_jump", error, each.event.id)
        for batch in batches:
            batch.drop_refused_events()

    async def _resolve_attempts(self, events: Sequence[IncomingEvent]) -> bool:
        """Set which attempt each event counts for.

        Returns whether an event has a `seq` that may be a jump.
        """
        sent = {(each.run_id, each.event.attempt) for each in events}
        attempts = self._attempts.get_cached(sent)
        if attempts is None:
            attempts = await to_thread(self._attempts.get, sent)
        resolved = {each: _resolve_attempt(each[1], attempts.get(each[0] or "")) for each in sent}
        may_jump = False
        for each in events:
            event = each.event
            each.counted_attempt, each.result, is_begun = resolved[each.run_id, event.attempt]
            each.is_projected = is_begun and each.payload is not None
            if event.seq is not None and event.seq > SEQ_JUMP:
                may_jump = True
        return may_jump

    def _project_again(self, repeated: Sequence[IncomingEvent]) -> None:
        """Project duplicates as they were stored first, before they are acknowledged.

        The process that stored them may have removed its marker when storing failed half-way.
        """
        known = self._log.stored([each.event.id for each in repeated])
        for each in repeated:
            each.result = IngestResult.DUPLICATE
            first = known.get(each.event.id)
            if first is not None:
                each.is_projected = False  # what was stored is projected, not what was sent
                if first.event.subject != each.event.subject:  # or one run could make another's events vanish
                    error = "an event of another subject has this id: ids are unique"
                    each.refusal = InvalidEventError("id_taken", error, each.event.id)
        run_ids = sorted({run_id for entry in known.values() if (run_id := entry.event.run_id)})
        self.projector.apply_now(project(events_for_replay(known.values(), self._views.current_attempts(run_ids))))

    async def _store_dead_letters(self, batches: Sequence[IngestBatch], received_at: datetime) -> None:
        dead = [
            DeadLetter(each.line, each.error.code, each.error.error, each.error.event_id, received_at)
            for batch in batches
            for each in batch.refused
        ]
        if dead:
            await to_thread(self._log.add_dead_letters, dead)

    def _count(self, batches: Sequence[IngestBatch]) -> None:
        events = [each for batch in batches for each in batch.events]
        for result in {each.result for each in events}:
            self._metrics.count_events(result, [each.event.type for each in events if each.result is result])
        self._metrics.count_invalid([each.error.code for batch in batches for each in batch.refused])


def _resolve_attempt(sent: int | None, current: int | None) -> tuple[int | None, IngestResult, bool]:
    """The attempt that an event counts for, its result, whether it has begun."""
    counted = sent if sent is not None else current
    if current is None or counted is None:
        return counted, IngestResult.ACCEPTED, False
    # History of an earlier attempt still counts; an attempt that has not begun cannot have events.
    return counted, IngestResult.ACCEPTED if counted == current else IngestResult.FENCED, counted <= current


def _log_documents(
    events: Sequence[IncomingEvent], first_position: int, received_at: datetime
) -> tuple[list[Document], list[IncomingEvent], list[IncomingEvent]]:
    """The log's documents, their events, and the transient events that are not kept."""
    documents: list[Document] = []
    stored: list[IncomingEvent] = []
    transient: list[IncomingEvent] = []
    stamps = arrival_and_expiry(received_at)
    latest = received_at + FUTURE_TOLERANCE
    for position, each in enumerate(events, first_position):
        event, payload = each.event, each.payload
        if payload is not None and payload.transient:
            each.event = _clamp_future_time(event, received_at)
            transient.append(each)
            continue
        if event.time > latest:
            # An event without an attempt is ordered by time: a date in the far future would win for good.
            each.event = event = _clamp_future_time(event, received_at)
        is_sample = payload is not None and payload.sample
        level = _level(payload) if event.type == RunLog.type else None
        is_fenced = each.result is IngestResult.FENCED
        documents.append(
            event_document(
                event,
                each.run_id,
                each.counted_attempt,
                position,
                stamps,
                is_sample,
                level,
                is_fenced,
                # Of an unknown type or run: no prune will find it.
                is_expiring=not each.is_projected,
            )
        )
        stored.append(each)
    return documents, stored, transient


def _level(payload: Payload | None) -> str:
    level: str = getattr(payload, "level", "info")
    return "warn" if level == "warning" else level


def _clamp_future_time(event: Event, now: datetime) -> Event:
    """The event, dated now at the latest.

    With a pod's clock ahead, a dead run would look alive.
    """
    if event.time <= now:
        return event
    rest = (event.seq, event.attempt, event.traceparent)
    return Event(event.id, event.source, event.type, event.subject, now, event.data, *rest)


def _refuse_unstorable(
    appended: AppendResult, stored: Sequence[IncomingEvent], batches: Sequence[IngestBatch]
) -> None:
    """Refuse the events that the database did not take."""
    if not appended.refused:
        return
    for index, error in appended.refused.items():
        stored[index].refusal = InvalidEventError("unstorable", error[:500], stored[index].event.id)
    for batch in batches:
        batch.drop_refused_events()


class _RecentIds:
    """The ids of the latest transient events.

    The log does not keep those, and a repeat is still a duplicate.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._ids: OrderedDict[str, None] = OrderedDict()

    def mark_repeated(self, transient: Iterable[IncomingEvent]) -> None:
        for each in transient:
            if each.event.id in self._ids:
                each.result = IngestResult.DUPLICATE

    def add(self, transient: Iterable[IncomingEvent]) -> None:
        for each in transient:
            self._ids[each.event.id] = None
        while len(self._ids) > self._limit:
            self._ids.popitem(last=False)
