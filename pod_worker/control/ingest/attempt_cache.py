"""Which attempt a run is in, asked of the database at most once a second for runs that are busy talking.

A remembered answer is used only for events that name that same attempt; an event of another one, or of none,
always asks. So a claim is seen at once, and the worst an old answer can do is to take a zombie's event for current
for a moment: its version, which begins with the attempt, still loses against the successor's.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable

from pod_worker.core.clock import Clock
from pod_worker.store.views.writer import Views

TRUSTED_SECONDS = 1.0
REMEMBERED = 10_000


class AttemptCache:
    """Thread-safe."""

    def __init__(self, views: Views, clock: Clock) -> None:
        self._views = views
        self._clock = clock
        self._known: OrderedDict[str, tuple[int, float]] = OrderedDict()  # run id -> attempt, when asked
        self._lock = threading.Lock()

    def get(self, claimed: Iterable[tuple[str | None, int | None]]) -> dict[str, int]:
        """The current attempt of those runs that exist, asked with what events say it is. Raises PyMongoError."""
        now = self._clock.monotonic()
        found, unsure = self._cached(claimed, now)
        return found | self._fetch(sorted(unsure), now) if unsure else found

    def get_cached(self, claimed: Iterable[tuple[str | None, int | None]]) -> dict[str, int] | None:
        """The same without asking; None where that is needed."""
        found, unsure = self._cached(claimed, self._clock.monotonic())
        return None if unsure else found

    def _cached(
        self, claimed: Iterable[tuple[str | None, int | None]], now: float
    ) -> tuple[dict[str, int], set[str]]:
        found: dict[str, int] = {}
        unsure: set[str] = set()
        with self._lock:
            for run_id, attempt in claimed:
                if run_id is None:
                    continue
                known, asked_at = self._known.get(run_id, (None, 0.0))
                if known is None or known != attempt or now - asked_at > TRUSTED_SECONDS:
                    unsure.add(run_id)
                else:
                    found[run_id] = known
        return found, unsure

    def _fetch(self, run_ids: list[str], now: float) -> dict[str, int]:
        found = self._views.current_attempts(run_ids)
        with self._lock:
            for run_id, attempt in found.items():
                self._known.pop(run_id, None)
                self._known[run_id] = (attempt, now)
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return found
