"""When to send next after a failure: what ingest asks for, else backoff.

The backoff is exponential, with full jitter.

Measures with the monotonic time it is given and never sleeps.
"""

from __future__ import annotations

import random

from pod_worker.core.backoff import full_jitter
from pod_worker.outbox.ingest_client import Misconfigured, Unavailable

FIRST_SECONDS = 0.5
CAP_SECONDS = 30.0
FLUSH_CAP_SECONDS = 1.0  # while a caller waits in `flush`
RETRY_AFTER_CAP_SECONDS = 300.0


class RetryBackoff:
    """Not thread-safe; its owner locks."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._is_requested = False  # whether ingest asked for the current wait
        self.failures = 0  # in a row
        self.deferrals = 0  # in a row
        self.flushing = 0  # how many callers wait in `flush`
        self.retry_at = 0.0  # monotonic seconds: no request before
        self.retry_deferred_at = 0.0  # no deferred line before

    def record_failure(self, failure: Unavailable | Misconfigured, now: float) -> float:
        """Note a request that acknowledged nothing; seconds until the next."""
        self.failures += 1
        self._is_requested = isinstance(failure, Unavailable) and failure.retry_after is not None
        if isinstance(failure, Misconfigured):  # a person must change something: retry slowly, but notice it
            pause = self._cap() * self._rng.uniform(0.5, 1.0)
        elif failure.retry_after is not None:
            pause = min(failure.retry_after, RETRY_AFTER_CAP_SECONDS) + self._rng.uniform(0, 0.1)
        else:
            pause = full_jitter(self.failures, FIRST_SECONDS, self._cap(), self._rng)
        self.retry_at = now + pause
        return pause

    def record_deferral(self, now: float) -> None:
        self.deferrals += 1
        self.retry_deferred_at = now + full_jitter(self.deferrals, FIRST_SECONDS, self._cap(), self._rng)

    def begin_flush(self) -> None:
        """End the waits that this process chose. A wait that ingest asked for goes on."""
        self.flushing += 1
        self.retry_deferred_at = 0.0
        if not self._is_requested:
            self.retry_at = 0.0

    def _cap(self) -> float:
        return FLUSH_CAP_SECONDS if self.flushing else CAP_SECONDS
