"""A change stream that wakes a worker when a run is queued or canceled.

It is a hint only. Its users also poll, so a dead stream costs latency and never a run. The thread reopens the
stream after a pause; it writes nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from pod_worker.store.collections import RUNS
from pod_worker.store.errors import describe_error
from pod_worker.store.mongo import Document, Mongo, tolerant_rows

log = logging.getLogger(__name__)

REOPEN_SECONDS = 5.0

# Only what a worker can act on leaves the server: a run that became claimable, or a cancel request.
PIPELINE: list[Document] = [
    {
        "$match": {
            "$or": [
                {"operationType": "insert", "fullDocument.status": "QUEUED"},
                {"operationType": "replace", "fullDocument.status": "QUEUED"},
                {"operationType": "update", "updateDescription.updatedFields.status": "QUEUED"},
                {
                    "operationType": "update",
                    "updateDescription.updatedFields.cancelRequestedAt": {"$exists": True},
                },
            ]
        }
    },
    # The run's parameters are not needed here, and may be large.
    {"$project": {"_id": 1, "documentKey": 1, "operationType": 1}},
]


class QueueWatcher:
    def __init__(self, database: Mongo, *, collection: str = RUNS, on_change: Callable[[], None]) -> None:
        self._runs = tolerant_rows(database, collection)
        self._on_change = on_change
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="wakeup", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()

    def _watch(self) -> None:
        while not self._stopping.is_set():
            try:
                self._watch_once()
            except Exception as error:
                # No replica set, a failover, a revoked right, an unreadable change: polling goes on without it.
                log.debug("the change stream ended (%s); it is opened again", describe_error(error))
            self._stopping.wait(REOPEN_SECONDS)

    def _watch_once(self) -> None:
        # The server holds the request until something happens or max_await_time_ms is over; a long wait
        # keeps an idle worker's query rate low.
        with self._runs.watch(PIPELINE, max_await_time_ms=15_000) as stream:
            while not self._stopping.is_set():
                if stream.try_next() is not None:
                    self._on_change()
