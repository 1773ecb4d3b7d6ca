"""Markers of the runs whose events are stored and perhaps not yet in their views.

A marker is written before the events are acknowledged, renewed while they wait and deleted after they are
projected. After a crash another process finds the marker and replays the run. Knows nothing of events and views.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from ulid import ULID

from pod_worker.core.clock import Clock
from pod_worker.store.mongo import Mongo
from pod_worker.store.views.pending_projections import PendingProjection, PendingProjections

ABANDONED_SECONDS = 20.0  # a marker that was not renewed for so long belongs to a dead process
_NEVER = float("-inf")


@dataclass(slots=True)
class _MarkedRun:
    """What a run's marker covers.

    The marker says `since` and was last written at `marked_at`; `open` are the positions.
    """

    since: int = 0
    marked_at: float = _NEVER
    open: list[int] = field(default_factory=list)


class ProjectionMarkers:
    """Thread-safe. Methods that touch the database raise PyMongoError."""

    def __init__(self, database: Mongo, clock: Clock) -> None:
        self._pending = PendingProjections(database, str(ULID()))
        self._clock = clock
        self._writing = threading.Lock()  # no caller may rely on a marker that is not written yet
        self._lock = threading.Lock()
        self._runs: dict[str, _MarkedRun] = {}

    def open(self, run_ids: frozenset[str], position: int) -> None:
        """Cover that log position for each run. Valid once `ensure` has returned."""
        with self._lock:
            for run_id in run_ids:
                self._runs.setdefault(run_id, _MarkedRun()).open.append(position)

    def close(self, run_ids: frozenset[str], position: int) -> None:
        with self._lock:
            for run_id in run_ids:
                self._runs[run_id].open.remove(position)

    async def ensure(self, run_ids: frozenset[str]) -> None:
        """Return once each run has a marker that no other process takes for abandoned."""
        if self._stale(run_ids, self._clock.monotonic()):
            await asyncio.to_thread(self._mark_stale, run_ids)

    def renew(self) -> None:
        """Renew the markers of runs with open positions and delete the others."""
        with self._writing:
            with self._lock:
                idle = {run_id: run.since for run_id, run in self._runs.items() if not run.open}
                for run_id in idle:
                    del self._runs[run_id]
                busy = list(self._runs)
            self._mark(busy, self._clock.monotonic())
        self._pending.clear(idle)

    def abandoned(self) -> list[PendingProjection]:
        """The markers of dead processes."""
        return self._pending.abandoned(ABANDONED_SECONDS)

    def discard(self, marker: PendingProjection) -> None:
        """Delete the marker of another process, unless that process renewed it."""
        self._pending.discard(marker)

    def _mark_stale(self, run_ids: frozenset[str]) -> None:
        with self._writing:
            now = self._clock.monotonic()
            if stale := self._stale(run_ids, now):
                self._mark(stale, now)

    def _stale(self, run_ids: frozenset[str], now: float) -> list[str]:
        """The runs whose marker is missing or may soon look abandoned."""
        with self._lock:
            return [run_id for run_id in run_ids if now - self._runs[run_id].marked_at > ABANDONED_SECONDS / 2]

    def _mark(self, run_ids: Sequence[str], now: float) -> None:
        with self._lock:
            positions = {run_id: self._runs[run_id].open for run_id in run_ids}
            since = {run_id: min(found) for run_id, found in positions.items() if found}
        self._pending.mark(since)
        with self._lock:
            for run_id, position in since.items():
                self._runs[run_id].since, self._runs[run_id].marked_at = position, now
