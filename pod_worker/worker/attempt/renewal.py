"""The thread that keeps a lease: it renews and reports cancel and loss.

It tells the guard how long to trust the lease.

It shares nothing with the run, so a run that hangs, floods or holds a GIL cannot starve it. When MongoDB does
not answer it tries again until the trust is over; by then the guard has killed the run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import pymongo
from pymongo.errors import PyMongoError

from pod_worker.core.clock import Clock
from pod_worker.core.lease import Lease, RenewalResult
from pod_worker.process.supervised_thread import SupervisedThread
from pod_worker.store.queue.run_queue import RunQueue

log = logging.getLogger(__name__)
RETRY_SECONDS = 1.0


class Renewer:
    def __init__(
        self,
        queue: RunQueue,
        lease: Lease,
        clock: Clock,
        *,
        renew_seconds: float,
        on_renewed: Callable[[float], None],
        on_cancel: Callable[[], None],
        on_lost: Callable[[str], None],
    ) -> None:
        """Keeps one lease.

        `on_renewed` is given the seconds for which the lease may be trusted from now on.
        """
        self.lease = lease
        self._queue = queue
        self._clock = clock
        self._renew_seconds = renew_seconds
        self._on_renewed = on_renewed
        self._on_cancel = on_cancel
        self._on_lost = on_lost
        self._is_due = False  # the first renewal comes one interval after the claim
        self._thread = SupervisedThread("renewal", self._step, backoff_seconds=(RETRY_SECONDS, RETRY_SECONDS))

    def start(self) -> None:
        self._thread.start()

    def renew_now(self) -> None:
        """Renew now instead of at the next turn: something about the run has changed."""
        self._is_due = True
        self._thread.wake()

    def stop(self) -> None:
        self._thread.stop()

    def problem(self) -> str | None:
        return self._thread.problem()

    def _step(self) -> float | None:
        if not self._is_due:
            self._is_due = True
            return self._renew_seconds
        left = self.lease.trusted_until - self._clock.monotonic()
        if left <= 0:
            self._on_lost("the lease could not be renewed in time (MongoDB did not answer)")
            return None
        return self._renew(left)

    def _renew(self, left: float) -> float | None:
        """Seconds until the next renewal; None when the lease is lost."""
        try:
            # Never wait longer for an answer than the answer could be of use.
            with pymongo.timeout(max(min(left, self._renew_seconds), 0.05)):
                result, self.lease = self._queue.renew(self.lease)
        except PyMongoError as error:
            log.warning("renewal failed, the lease is trusted for %.0f s more: %s", left, type(error).__name__)
            return min(RETRY_SECONDS, max(left, 0.01))
        if result is RenewalResult.LOST:
            self._on_lost("the run was taken away (reset, rescued, or finished elsewhere)")
            return None
        self._on_renewed(self.lease.trusted_until - self._clock.monotonic())
        if result is RenewalResult.CANCEL:
            self._on_cancel()
        return self._renew_seconds
