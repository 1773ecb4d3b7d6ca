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


class Patience:
    """Not thread-safe; its owner locks."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._was_told = False
        self.failures = 0  # in a row
        self.put_offs = 0  # in a row
        self.hurried = 0  # how many wait in `flush`
        self.not_before = 0.0  # monotonic seconds: no request before
        self.held_not_before = 0.0  # no line that was put off before

    def after(self, trouble: Unavailable | Misconfigured, now: float) -> float:
        """Note a request that brought nothing; seconds until the next."""
        self.failures += 1
        self._was_told = isinstance(trouble, Unavailable) and trouble.retry_after is not None
        if isinstance(trouble, Misconfigured):  # only a person can mend it: slowly, but notice when it is
            pause = self._capped(CAP_SECONDS) * self._rng.uniform(0.5, 1.0)
        elif trouble.retry_after is not None:
            pause = min(trouble.retry_after, RETRY_AFTER_CAP_SECONDS) + self._rng.uniform(0, 0.1)
        else:
            pause = self._jitter(self.failures)
        self.not_before = now + pause
        return pause

    def after_put_off(self, now: float) -> None:
        self.put_offs += 1
        self.held_not_before = now + self._jitter(self.put_offs)

    def hurry(self) -> None:
        """Somebody flushes: waits of our own choosing end now, one that ingest asked for does not."""
        self.hurried += 1
        self.held_not_before = 0.0
        if not self._was_told:
            self.not_before = 0.0

    def _jitter(self, failures: int) -> float:
        """Full jitter (AWS Architecture Blog, "Exponential Backoff And Jitter", 2015)."""
        return self._rng.uniform(0, self._capped(FIRST_SECONDS * 2 ** min(failures, 16)))

    def _capped(self, seconds: float) -> float:
        return min(seconds, HURRIED_CAP_SECONDS if self.hurried else CAP_SECONDS)
