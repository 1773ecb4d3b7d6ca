"""Projects stored events into the views in a thread, many batches at once.

Ingest reserves before it stores, so that a crash in between leaves a marker and another process replays the run.
Views may lag by a fraction of a second; `wait_until_projected` waits for all acknowledged events. `projections`
decides what an event means, `store.views` how it is written.
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

from pod_worker.control.events.markers import ProjectionMarkers
from pod_worker.control.events.replay import replay_since
from pod_worker.control.web.problem import RETRY_SECONDS, ProblemError
from pod_worker.core.clock import Clock
from pod_worker.process.supervised_thread import SupervisedThread
from pod_worker.store.errors import describe_error, is_partial_write, is_permanent_error
from pod_worker.store.mongo import Mongo
from pod_worker.store.views.changes import ViewChanges
from pod_worker.store.views.pending_projections import PendingProjection
from pod_worker.store.views.writer import Views

MIN_INTERVAL_SECONDS = 0.2  # between two writes while no reader waits: events in between are written together
MAINTAIN_SECONDS = 5.0
RETRY_PAUSE_SECONDS = 0.5
STUCK_SECONDS = 60.0  # of one write of the views; a step without work ends after MAINTAIN_SECONDS
WAITING_EVENTS = 50_000
ROOM_TIMEOUT_SECONDS = 5.0
READ_TIMEOUT_SECONDS = 2.0
CLOSE_SECONDS = 60.0

log = logging.getLogger(__name__)


@dataclass(slots=True)
class ProjectionTicket:
    """A group of events on its way through the log into the views.

    `position` is the first event's.
    """

    run_ids: frozenset[str]
    position: int
    count: int
    changes: ViewChanges = field(default_factory=ViewChanges)


class Projector:
    """Thread-safe. Its thread starts with the first reservation, or with `start`."""

    def __init__(self, database: Mongo, clock: Clock, on_failure: Callable[[], None]) -> None:
        self._database = database
        self._views = Views(database)
        self._markers = ProjectionMarkers(database, clock)
        self._clock = clock
        self._on_failure = on_failure
        self._changed = threading.Condition()
        self._waiting: list[ProjectionTicket] = []
        self._accepted_events = self._projected_events = 0  # since the start
        self._next_position = 0
        self._next_write = self._next_maintenance = 0.0
        self._readers = 0
        self._database_down = False
        self._is_closing = False
        self._thread: SupervisedThread | None = None

    # ── for ingest ──────────────────────────────────────────────────────────────────────────────────────────

    @asynccontextmanager
    async def reserve(self, run_ids: frozenset[str], count: int, now: datetime) -> AsyncIterator[ProjectionTicket]:
        """Around storing so many events of these runs.

        Set `changes` and their `count` before leaving.

        Positions are microseconds since 1970, never the same twice in this process. Raises PyMongoError when the
        marker cannot be written, ProblemError 503 when too many events wait; then nothing may be acknowledged.
        """
        self.start()
        if not self._has_room():
            await asyncio.to_thread(self._wait_for_room)
        ticket = self._open_ticket(run_ids, count, now)
        try:
            await self._markers.ensure(run_ids)
            yield ticket
            await self._markers.ensure(run_ids)  # storing may have taken so long that the marker looks abandoned
        except BaseException:
            self._close_ticket(ticket)
            raise
        with self._changed:
            self._accepted_events += ticket.count
            self._waiting.append(ticket)
            self._changed.notify_all()

    def _open_ticket(self, run_ids: frozenset[str], count: int, now: datetime) -> ProjectionTicket:
        with self._changed:
            position = max(int(now.timestamp() * 1_000_000), self._next_position)
            self._next_position = position + count
        self._markers.open(run_ids, position)
        return ProjectionTicket(run_ids, position, count)

    def _close_ticket(self, ticket: ProjectionTicket) -> None:
        self._markers.close(ticket.run_ids, ticket.position)

    def _wait_for_room(self) -> None:
        with self._changed:
            if not self._changed.wait_for(self._has_room, ROOM_TIMEOUT_SECONDS):
                wait = {"Retry-After": str(RETRY_SECONDS)}
                detail = f"too many events wait to be projected: send it again after {RETRY_SECONDS} s"
                raise ProblemError(503, "busy", detail, headers=wait)

    def _has_room(self) -> bool:
        return self.waiting_events() < WAITING_EVENTS

    def apply_now(self, changes: ViewChanges) -> None:
        """Write in the caller's thread, for events that no marker may cover any more.

        Raises PyMongoError; then the events may not be acknowledged.
        """
        self._apply(changes)

    # ── for readers ─────────────────────────────────────────────────────────────────────────────────────────

    def waiting_events(self) -> int:
        """Stored and not yet in the views."""
        return self._accepted_events - self._projected_events

    def wait_until_projected(self, seconds: float = READ_TIMEOUT_SECONDS) -> bool:
        """Wait until all events stored before are in the views.

        Returns False after a timeout or without the database.
        """
        with self._changed:
            wanted = self._accepted_events
            self._readers += 1
            self._changed.notify_all()
            try:
                self._changed.wait_for(lambda: self._projected_events >= wanted or self._database_down, seconds)
                return self._projected_events >= wanted
            finally:
                self._readers -= 1

    def problem(self) -> str | None:
        """Why the views do not follow the log, for /readyz; None while the thread works."""
        return self._thread.problem() if self._thread is not None else None

    # ── the thread ──────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        if self._thread is not None:
            return
        with self._changed:
            if self._thread is None and not self._is_closing:
                self._thread = SupervisedThread("projector", self._step, stuck_seconds=STUCK_SECONDS)
                self._thread.start()

    def close(self) -> None:
        """Project the waiting events, delete the markers and end.

        Another process repeats what fails now.
        """
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        if self._thread is not None and not self._thread.join(CLOSE_SECONDS):
            self._thread.stop(timeout=0)

    def _step(self) -> float | None:
        """Write the waiting events once; returns the seconds to pause.

        None when all is done and closed.
        """
        tickets = self._next_tickets()
        try:
            is_done = self._project(tickets)
        except BaseException:
            self._put_back(tickets)
            raise
        if not is_done:
            self._put_back(tickets)
        is_last = self._is_closing and (not is_done or not self._waiting)
        if is_last or self._clock.monotonic() >= self._next_maintenance:
            # First, so that maintenance that fails does not take the place of every later write.
            self._next_maintenance = self._clock.monotonic() + MAINTAIN_SECONDS
            self._maintain()
        if is_last:
            return None
        if not is_done:
            with self._changed:
                self._changed.wait_for(lambda: self._is_closing, RETRY_PAUSE_SECONDS)
        return 0.0

    def _put_back(self, tickets: list[ProjectionTicket]) -> None:
        with self._changed:
            self._waiting = tickets + self._waiting

    def _next_tickets(self) -> list[ProjectionTicket]:
        """The waiting tickets once they are due, or none when maintenance is due."""
        with self._changed:
            while not self._is_closing:
                now = self._clock.monotonic()
                if (self._waiting and (self._readers or now >= self._next_write)) or now >= self._next_maintenance:
                    break
                due = min(self._next_write, self._next_maintenance) if self._waiting else self._next_maintenance
                self._changed.wait(due - now)
            self._next_write = self._clock.monotonic() + MIN_INTERVAL_SECONDS
            tickets, self._waiting = self._waiting, []
            return tickets

    def _project(self, tickets: Sequence[ProjectionTicket]) -> bool:
        """False: the database is down, and all of it must be written again."""
        changes = ViewChanges()
        for each in tickets:
            changes.merge(each.changes)
        try:
            self._apply(changes)
        except PyMongoError as error:
            log.warning("projecting is delayed: %s", describe_error(error))
            with self._changed:
                self._database_down = True
                self._changed.notify_all()
            return False
        for each in tickets:
            self._close_ticket(each)
        with self._changed:
            self._database_down = False
            self._projected_events += sum(each.count for each in tickets)
            self._changed.notify_all()
        return True

    def _apply(self, changes: ViewChanges) -> None:
        """Write the changes; drop and report those that can never be written.

        Raises PyMongoError: try again.
        """
        try:
            self._views.apply(changes)
        except Exception as error:
            if _is_transient(error):
                raise
            halves = [] if is_partial_write(error) else changes.split_in_two()
            if not halves:
                self._report_failure(f"part of {changes.describe()}", error)
            for each in halves:  # a change that BSON cannot hold must not prevent the others
                self._apply(each)

    def _report_failure(self, what: str, error: Exception) -> None:
        # The event is stored, so nothing is lost: `pod-worker events rebuild` repeats the projection.
        self._on_failure()
        reason = str(error.details) if isinstance(error, BulkWriteError) else repr(error)
        log.error("stored but not projected: %s: %s", what, reason[:500])

    # ── markers ─────────────────────────────────────────────────────────────────────────────────────────────

    def _maintain(self) -> None:
        """Renew the own markers and replay the runs of dead processes."""
        try:
            self._markers.renew()
            for marker in self._markers.abandoned():
                if self._waiting or self._is_closing:  # own events first; a later step or another process goes on
                    return
                self._recover(marker)
        except PyMongoError as error:
            log.warning("renewing the projection markers is delayed: %s", describe_error(error))

    def _recover(self, marker: PendingProjection) -> None:
        """Replay the run of a dead process. Raises PyMongoError when it must be repeated."""
        log.warning("replaying run %s: the process that stored its events ended before projecting", marker.run_id)
        try:
            replay_since(self._database, marker.run_id, marker.since)
        except Exception as error:
            if _is_transient(error):
                raise
            self._report_failure(f"run {marker.run_id} from {marker.since} on", error)
        self._markers.discard(marker)


def _is_transient(error: Exception) -> bool:
    return isinstance(error, PyMongoError) and not is_permanent_error(error)
