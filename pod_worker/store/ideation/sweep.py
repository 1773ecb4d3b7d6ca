"""What workers and the control plane do for ideation now and then, in one call."""

from __future__ import annotations

import logging

from pymongo.errors import PyMongoError

from pod_worker.store.errors import describe_error
from pod_worker.store.ideation.adoption import RequestAdoption
from pod_worker.store.ideation.launches import WaitingLaunches
from pod_worker.store.ideation.status_sync import RequestStatusSync
from pod_worker.store.mongo import Mongo
from pod_worker.store.queue.run_queue import RunQueue

log = logging.getLogger(__name__)


class IdeationSweep:
    """Adopts requests, copies the states of runs, launches experiments.

    Any process may call it at any time.
    """

    def __init__(self, database: Mongo, queue: RunQueue) -> None:
        self._adoption = RequestAdoption(database, queue)
        self._status = RequestStatusSync(database)
        self._launches = WaitingLaunches(database, queue)
        self._next_run = 0.0

    def run_if_due(self, now: float, interval_seconds: float) -> None:
        """For a worker between two claims.

        An error is logged, because it must not keep runs from being claimed.
        """
        if now < self._next_run:
            return
        self._next_run = now + 0.8 * interval_seconds  # a worker sleeps at least so long between two polls
        try:
            self.run()
        except PyMongoError as error:
            log.warning("ideation requests wait: %s", describe_error(error))

    def run(self) -> None:
        """Four indexed queries when nothing is to be done.

        Raises PyMongoError when the server does not answer; what was done stays done.
        """
        for request_id in self._adoption.adopt_waiting():
            log.info("ideation request %s is queued as a run", request_id)
        self._status.sync()
        for run_id in self._launches.launch_ready():
            log.info("run %s is queued: its hypothesis has an idea", run_id)
