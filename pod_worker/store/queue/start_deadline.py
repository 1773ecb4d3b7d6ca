"""Ends queued runs that no worker claimed before their `startBy` (max_queue_time).

The time counts while a worker may claim the run: from the submit, or from its release where it waits for other
runs. A reset and a retried stage begin it again. A run that was claimed once has no `startBy` any more.
"""

from __future__ import annotations

from pod_worker.core.failure import FailureCode
from pod_worker.core.run import RunStatus
from pod_worker.store.collections import RUNS
from pod_worker.store.mongo import Document, Mongo, tolerant_rows
from pod_worker.store.queue.document_room import write_or_leave
from pod_worker.store.queue.run_document import WAITING_FIELDS, history_append

_MESSAGE = (
    "No worker claimed the run within its max_queue_time. `pod-worker runs why` says what it waited for; "
    "raise max_queue_time or start a worker for its queue."
)


class StartDeadline:
    def __init__(self, database: Mongo, *, collection: str = RUNS) -> None:
        self._runs = tolerant_rows(database, collection)

    def sweep(self) -> int:
        """How many runs ended.

        By the server's clock. A claim at the same moment wins, or finds the run ended.
        """
        update: list[Document] = [
            {
                "$set": {
                    "status": RunStatus.FAILED.value,
                    "failedAt": "$$NOW",
                    "errorCode": FailureCode.STAGE_TIMEOUT.value,
                    "errorMessage": _MESSAGE,
                    "retryable": False,
                    "history": history_append("failed", detail=_MESSAGE),
                }
            },
            {"$unset": WAITING_FIELDS},
        ]
        ended = 0
        for run in list(self._runs.find(_OVERDUE, {"_id": 1})):
            condition = _OVERDUE | {"_id": run["_id"]}
            ended += write_or_leave(
                lambda each, condition=condition: self._runs.update_one(condition, each),  # type: ignore[misc]
                update,
                str(run["_id"]),
            )
        return ended


_OVERDUE: Document = {
    "status": RunStatus.QUEUED.value,
    "startBy": {"$type": "date"},
    "blockedBy": None,  # a hand-made document may have both
    "$expr": {"$lt": ["$startBy", "$$NOW"]},
}
