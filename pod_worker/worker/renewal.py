"""Keeping the lease: a thread that renews, tells the guard how long to trust, and passes on what it hears.

It shares nothing with the run, so a run that hangs, floods or holds a GIL cannot starve it. When MongoDB does
not answer it tries again until the trust is over; by then the guard has made the GPU free.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import pymongo
from pymongo.errors import PyMongoError

from pod_worker.core.clock import Clock
from pod_worker.core.lease import Lease, RenewalResult
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
        every_seconds: float,
        on_trust: Callable[[float], None],
        on_cancel: Callable[[], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self.lease = lease
        self._queue = queue
        self._clock = clock
        self._every_seconds = every_seconds
        self._on_trust = on_trust
        self._on_cancel = on_cancel
        self._on_lost = on_lost
        self._kick = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._keep, name="renewal", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def kick(self) -> None:
        """Renew now instead of at the next turn: something about the run has changed."""
        self._kick.set()

    def stop(self) -> None:
        self._stopping = True
        self._kick.set()
        self._thread.join()

    def _keep(self) -> None:
        wait = self._every_seconds
        while not self._stopping:
            self._kick.wait(wait)
            self._kick.clear()
            if self._stopping:
                return
            left = self.lease.trusted_until - self._clock.monotonic()
            if left <= 0:
                self._on_lost("the lease could not be renewed in time (MongoDB did not answer)")
                return
            wait = self._every_seconds if self._renew(left) else min(RETRY_SECONDS, max(left, 0.01))

    def _renew(self, left: float) -> bool:
        try:
            # Never wait longer for an answer than the answer could be of use.
            with pymongo.timeout(max(min(left, self._every_seconds), 0.05)):
                verdict, self.lease = self._queue.renew(self.lease)
        except PyMongoError as error:
            log.warning("renewal failed, %.0f s of trust left: %s", left, type(error).__name__)
            return False
        if verdict is RenewalResult.LOST:
            self._on_lost("the run was taken away (reset, rescued, or finished elsewhere)")
            self._stopping = True
            return True
        self._on_trust(self.lease.trusted_until - self._clock.monotonic())
        if verdict is RenewalResult.CANCEL:
            self._on_cancel()
        return True
