"""How long to wait after trouble: what ingest asks for, else exponential backoff with full jitter.

It measures with the monotonic time it is given and never sleeps.
"""

from __future__ import annotations

import random

from pod_worker.outbox.ingest_client import Misconfigured, Unavailable

FIRST_SECONDS = 0.5
CAP_SECONDS = 30.0
HURRIED_CAP_SECONDS = 1.0  # while somebody waits in `flush`
RETRY_AFTER_CAP_SECONDS = 300.0


class RetryBackoff:
    """Not thread-safe; its owner locks."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._was_told = False
        self.failures = 0  # in a row
        self.deferrals = 0  # in a row
        self.flushing = 0  # how many wait in `flush`
        self.retry_at = 0.0  # monotonic seconds: no request before
        self.retry_deferred_at = 0.0  # no line that was put off before

    def record_failure(self, trouble: Unavailable | Misconfigured, now: float) -> float:
        """Note a request that brought nothing; seconds until the next."""
        self.failures += 1
        self._was_told = isinstance(trouble, Unavailable) and trouble.retry_after is not None
        if isinstance(trouble, Misconfigured):  # only a person can mend it: slowly, but notice when it is
            pause = self._capped(CAP_SECONDS) * self._rng.uniform(0.5, 1.0)
        elif trouble.retry_after is not None:
            pause = min(trouble.retry_after, RETRY_AFTER_CAP_SECONDS) + self._rng.uniform(0, 0.1)
        else:
            pause = self._jitter(self.failures)
        self.retry_at = now + pause
        return pause

    def record_deferral(self, now: float) -> None:
        self.deferrals += 1
        self.retry_deferred_at = now + self._jitter(self.deferrals)

    def begin_flush(self) -> None:
        """Somebody flushes: waits of our own choosing end now, one that ingest asked for does not."""
        self.flushing += 1
        self.retry_deferred_at = 0.0
        if not self._was_told:
            self.retry_at = 0.0

    def _jitter(self, failures: int) -> float:
        """Full jitter (AWS Architecture Blog, "Exponential Backoff And Jitter", 2015)."""
        return self._rng.uniform(0, self._capped(FIRST_SECONDS * 2 ** min(failures, 16)))

    def _capped(self, seconds: float) -> float:
        return min(seconds, HURRIED_CAP_SECONDS if self.flushing else CAP_SECONDS)
