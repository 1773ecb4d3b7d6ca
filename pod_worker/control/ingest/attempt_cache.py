"""Which attempt a run is in, read from the database at most once a second.

A cached attempt is used only for events that name it; an event of another attempt, or of none, always reads the
database. So a claim is seen at once. A stale entry can at worst accept an event of a superseded attempt for a
moment. Its version begins with the attempt and still loses against the successor's.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable

from pod_worker.core.clock import Clock
from pod_worker.store.views.writer import Views

TRUSTED_SECONDS = 1.0
CACHED_RUNS = 10_000


class AttemptCache:
    """Thread-safe."""

    def __init__(self, views: Views, clock: Clock) -> None:
        self._views = views
        self._clock = clock
        self._known: OrderedDict[str, tuple[int, float]] = OrderedDict()  # run id -> attempt, when read
        self._lock = threading.Lock()

    def get(self, sent: Iterable[tuple[str | None, int | None]]) -> dict[str, int]:
        """The current attempt of those runs that exist.

        The keys are (run id, attempt) of events. Raises PyMongoError.
        """
        now = self._clock.monotonic()
        found, unsure = self._cached(sent, now)
        return found | self._fetch(sorted(unsure), now) if unsure else found

    def get_cached(self, sent: Iterable[tuple[str | None, int | None]]) -> dict[str, int] | None:
        """The same without the database; None when the database is needed."""
        found, unsure = self._cached(sent, self._clock.monotonic())
        return None if unsure else found

    def _cached(
        self, sent: Iterable[tuple[str | None, int | None]], now: float
    ) -> tuple[dict[str, int], set[str]]:
        found: dict[str, int] = {}
        unsure: set[str] = set()
        with self._lock:
            for run_id, attempt in sent:
                if run_id is None:
                    continue
                known, read_at = self._known.get(run_id, (None, 0.0))
                if known is None or known != attempt or now - read_at > TRUSTED_SECONDS:
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
            while len(self._known) > CACHED_RUNS:
                self._known.popitem(last=False)
        return found
