"""Brings the views up to date behind the event log: many batches at once, and soon.

Whoever stores events promises first, so that a process which dies in between leaves a note of what it owes, and
another one pays. Views may lag by a fraction of a second; a reader who wants to see all that was acknowledged
waits with `settle`. What an event means is decided in `projections`, how it is written in `store.views`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime

from pymongo.errors import BulkWriteError, PyMongoError
from ulid import ULID

from pod_worker.control.events.replay import replay_since
from pod_worker.control.web.problem import RETRY_SECONDS, ProblemError
from pod_worker.core.clock import Clock
from pod_worker.store.errors import is_partial_write, is_permanent_error
from pod_worker.store.mongo import Mongo
from pod_worker.store.views.changes import ViewChanges
from pod_worker.store.views.pending_projections import PendingProjection, PendingProjections
from pod_worker.store.views.writer import Views

MIN_INTERVAL_SECONDS = 0.2  # at most so often while nobody waits: what arrives in between is written together
TICK_SECONDS = 5.0
ABANDONED_SECONDS = 20.0  # a note that was not renewed for so long is a dead process's
RETRY_PAUSE_SECONDS = 0.5
WAITING_EVENTS = 50_000
ROOM_TIMEOUT_SECONDS = 5.0
SETTLE_SECONDS = 2.0
_NEVER = float("-inf")

log = logging.getLogger(__name__)


@dataclass(slots=True)
class ProjectionTicket:
    """A group of events on its way through the log into the views. `position` is the first one's."""

    run_ids: frozenset[str]
    position: int
    count: int
    changes: ViewChanges = field(default_factory=ViewChanges)


@dataclass(slots=True)
class _PendingRun:
    """A run that is noted in the database: with `since`, last at `noted_at`, for the sake of what is open."""

    since: int = 0
    noted_at: float = _NEVER
    open: list[int] = field(default_factory=list)


class Projector:
    """Thread-safe. Its own thread begins with the first promise, or with `start`."""

    def __init__(self, database: Mongo, clock: Clock, on_failure: Callable[[], None]) -> None:
        self._database = database
        self._views = Views(database)
        self._debts = PendingProjections(database, str(ULID()))
        self._clock = clock
        self._on_failure = on_failure
        self._noting = threading.Lock()  # nobody may rely on a note that is still on its way
        self._changed = threading.Condition()
        self._waiting: list[ProjectionTicket] = []
        self._accepted_events = self._projected_events = 0  # events, ever
        self._next_position = 0
        self._owed: dict[str, _PendingRun] = {}
        self._readers = 0
        self._database_down = False
        self._is_closing = False
        self._thread: threading.Thread | None = None

    # ── for those who store ─────────────────────────────────────────────────────────────────────────────────

    @asynccontextmanager
    async def reserve(self, run_ids: frozenset[str], count: int, now: datetime) -> AsyncIterator[ProjectionTicket]:
        """Around storing so many events of these runs; set `changes` and their `count` before leaving.

        Positions are microseconds since 1970, never the same twice in this process. Raises PyMongoError when the
        promise cannot be noted, ProblemError 503 when too much waits already; then nothing may be acknowledged.
        """
        self.start()
        if not self._has_room():
            await asyncio.to_thread(self._wait_for_room)
        made = self._open_ticket(run_ids, count, now)
        try:
            await self._ensure_marked(run_ids)
            yield made
            await self._ensure_marked(run_ids)  # storing may have taken so long that others gave this process up
        except BaseException:
            with self._changed:
                self._close(made)
            raise
        with self._changed:
            self._accepted_events += made.count
            self._waiting.append(made)
            self._changed.notify_all()

    def _open_ticket(self, run_ids: frozenset[str], count: int, now: datetime) -> ProjectionTicket:
        with self._changed:
            position = max(int(now.timestamp() * 1_000_000), self._next_position)
            self._next_position = position + count
            for run_id in run_ids:
                self._owed.setdefault(run_id, _PendingRun()).open.append(position)
            return ProjectionTicket(run_ids, position, count)

    def _wait_for_room(self) -> None:
        with self._changed:
            if not self._changed.wait_for(self._has_room, ROOM_TIMEOUT_SECONDS):
                wait = {"Retry-After": str(RETRY_SECONDS)}
                raise ProblemError(503, "busy", "the views are too far behind: send it again", headers=wait)

    def _has_room(self) -> bool:
        return self.waiting_events() < WAITING_EVENTS

    async def _ensure_marked(self, run_ids: frozenset[str]) -> None:
        if self._stale_marks(run_ids, self._clock.monotonic()):
            await asyncio.to_thread(self._mark_stale, run_ids)

    def _mark_stale(self, run_ids: frozenset[str]) -> None:
        with self._noting:
            now = self._clock.monotonic()
            if old := self._stale_marks(run_ids, now):
                self._mark(old, now)

    def _stale_marks(self, run_ids: frozenset[str], now: float) -> list[str]:
        """Those whose note is missing or may soon be taken for a dead process's."""
        with self._changed:
            return [run_id for run_id in run_ids if now - self._owed[run_id].noted_at > ABANDONED_SECONDS / 2]

    def _mark(self, run_ids: Sequence[str], now: float) -> None:
        with self._changed:
            known = {run_id: self._owed[run_id].open for run_id in run_ids}
            since = {run_id: min(positions) for run_id, positions in known.items() if positions}
        self._debts.mark(since)
        with self._changed:
            for run_id, position in since.items():
                self._owed[run_id].since, self._owed[run_id].noted_at = position, now

    def _close(self, made: ProjectionTicket) -> None:
        for run_id in made.run_ids:
            self._owed[run_id].open.remove(made.position)

    def apply_now(self, changes: ViewChanges) -> None:
        """In the caller's thread, before it returns: for events that an earlier promise may not cover any more.

        Raises PyMongoError; then they may not be acknowledged.
        """
        self._apply(changes)

    # ── for those who read ──────────────────────────────────────────────────────────────────────────────────

    def waiting_events(self) -> int:
        """Stored, and not yet in the views."""
        return self._accepted_events - self._projected_events

    def wait_until_projected(self, seconds: float = SETTLE_SECONDS) -> bool:
        """Wait until everything stored before is in the views. False: too long, or the database is away."""
        with self._changed:
            wanted = self._accepted_events
            self._readers += 1
            self._changed.notify_all()
            try:
                self._changed.wait_for(lambda: self._projected_events >= wanted or self._database_down, seconds)
                return self._projected_events >= wanted
            finally:
                self._readers -= 1

    # ── the thread ──────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        if self._thread is not None:
            return
        with self._changed:
            if self._thread is None and not self._is_closing:
                self._thread = threading.Thread(target=self._work, name="projector", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Project what waits, take the notes back, end. What fails now is left to another process."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        next_pace = next_tick = 0.0
        while not self._is_closing or self._waiting:
            promises = self._next(next_pace, next_tick)
            next_pace = self._clock.monotonic() + MIN_INTERVAL_SECONDS
            is_done = self._project(promises)
            if self._clock.monotonic() >= next_tick:
                self._maintain()
                next_tick = self._clock.monotonic() + TICK_SECONDS
            if not is_done:
                with self._changed:
                    if self._changed.wait_for(lambda: self._is_closing, RETRY_PAUSE_SECONDS):
                        return
                    self._waiting = promises + self._waiting
        self._maintain()

    def _next(self, next_pace: float, next_tick: float) -> list[ProjectionTicket]:
        """What waits, as soon as it is time for it, or for a tick."""
        with self._changed:
            while not self._is_closing:
                now = self._clock.monotonic()
                if (self._waiting and (self._readers or now >= next_pace)) or now >= next_tick:
                    break
                self._changed.wait((min(next_pace, next_tick) if self._waiting else next_tick) - now)
            promises, self._waiting = self._waiting, []
            return promises

    def _project(self, promises: Sequence[ProjectionTicket]) -> bool:
        """False: the database is away, and all of it is to be done again."""
        changes = ViewChanges()
        for each in promises:
            changes.merge(each.changes)
        try:
            self._apply(changes)
        except PyMongoError as error:
            log.warning("the views wait: MongoDB does not answer (%s)", type(error).__name__)
            with self._changed:
                self._database_down = True
                self._changed.notify_all()
            return False
        with self._changed:
            self._database_down = False
            for each in promises:
                self._projected_events += each.count
                self._close(each)
            self._changed.notify_all()
        return True

    def _apply(self, changes: ViewChanges) -> None:
        """Raises PyMongoError when all of it is to be done again; what can never be written is told and left."""
        try:
            self._views.apply(changes)
        except Exception as error:
            if _may_help_again(error):
                raise
            halves = [] if is_partial_write(error) else changes.split_in_two()
            if not halves:
                self._failed(f"what is new of {changes.describe()}", error)
            for each in halves:  # a change that BSON cannot hold: it must not take the others with it
                self._apply(each)

    def _failed(self, what: str, error: Exception) -> None:
        # Stored, so nothing is lost: once it can be written, `pod-worker events rebuild` brings it.
        self._on_failure()
        why = str(error.details) if isinstance(error, BulkWriteError) else repr(error)
        log.error("stored but not projected: %s: %s", what, why[:500])

    # ── notes ───────────────────────────────────────────────────────────────────────────────────────────────

    def _maintain(self) -> None:
        """Renew the notes of what is under way, take back the others, and pay what the dead left."""
        try:
            with self._noting:
                with self._changed:
                    idle = {run_id: owed.since for run_id, owed in self._owed.items() if not owed.open}
                    for run_id in idle:
                        del self._owed[run_id]
                    busy = list(self._owed)
                self._mark(busy, self._clock.monotonic())
            self._debts.clear(idle)
            for debt in self._debts.abandoned(ABANDONED_SECONDS):
                if self._waiting or self._is_closing:  # one's own first; the rest at a later tick, or by another
                    return
                self._recover(debt)
        except PyMongoError as error:
            log.warning("the notes of what is owed wait: MongoDB does not answer (%s)", type(error).__name__)

    def _recover(self, debt: PendingProjection) -> None:
        """Raises PyMongoError when it is to be tried again."""
        log.warning("the views of run %s were left behind: its events are replayed", debt.run_id)
        try:
            replay_since(self._database, debt.run_id, debt.since)
        except Exception as error:
            if _may_help_again(error):
                raise
            self._failed(f"run {debt.run_id} from {debt.since} on", error)
        self._debts.discard(debt)


def _may_help_again(error: Exception) -> bool:
    return isinstance(error, PyMongoError) and not is_permanent_error(error)
