"""The rescue of runs whose worker died: an expired lease sends the run back to the queue, or ends it.

Anyone may call it, at any time, from any number of places: each rescue is one conditional write that re-checks,
by the server's clock, that the lease is still the same and still over.
"""

from __future__ import annotations

from dataclasses import dataclass

from pymongo import ReturnDocument

from pod_worker.core.failure import FailureCode
from pod_worker.core.run import Run, RunStatus
from pod_worker.store.mongo import Document, Mongo
from pod_worker.store.queue.run_document import LEASE_FIELDS, noted, run_from
from pod_worker.store.queue.run_queue import ACTIVE_STATES, MAX_CRASHES, RUNS

BATCH = 100


@dataclass(frozen=True, slots=True)
class Rescued:
    run: Run  # as it is now
    worker_id: str | None  # who had it


class Rescue:
    def __init__(self, database: Mongo, *, collection: str = RUNS, max_crashes: int = MAX_CRASHES) -> None:
        self._runs = database[collection]
        self._max_crashes = max_crashes

    def sweep(self) -> list[Rescued]:
        """Requeue (or end) every run whose lease is over; the cost with none is one indexed query."""
        found = self._runs.find(_expired(), {"_id": 1, "leaseToken": 1, "claimedBy": 1}).limit(BATCH)
        return [rescued for document in found if (rescued := self._rescue(document))]

    def _rescue(self, found: Document) -> Rescued | None:
        condition = _expired() | {"_id": found["_id"], "leaseToken": found.get("leaseToken")}
        after = self._runs.find_one_and_update(condition, self._requeueing(), return_document=ReturnDocument.AFTER)
        return Rescued(run_from(after), found.get("claimedBy")) if after else None

    def _requeueing(self) -> list[Document]:
        crashes = {"$add": [{"$ifNull": ["$crashCount", 0]}, 1]}
        is_canceled = {"$gt": ["$cancelRequestedAt", None]}
        is_poison = {"$gte": [crashes, self._max_crashes]}

        def by_fate(canceled: object, poison: object, queued: object) -> Document:
            return {"$cond": [is_canceled, canceled, {"$cond": [is_poison, poison, queued]}]}

        poison_text = "gave up: its workers died too often without progress (the last one without a word)"
        lost_text = "the worker stopped renewing its lease"
        return [
            {
                "$set": {
                    "status": by_fate(RunStatus.CANCELED.value, RunStatus.FAILED.value, RunStatus.QUEUED.value),
                    "crashCount": crashes,
                    "canceledAt": by_fate("$$NOW", "$canceledAt", "$canceledAt"),
                    "failedAt": by_fate("$failedAt", "$$NOW", "$failedAt"),
                    "errorCode": by_fate("$errorCode", FailureCode.POISON.value, FailureCode.WORKER_LOST.value),
                    "errorMessage": by_fate("$errorMessage", poison_text, lost_text),
                    "rescuedAt": "$$NOW",
                    "history": noted("rescued", detail=lost_text),
                }
            },
            {"$unset": LEASE_FIELDS},
        ]


def _expired() -> Document:
    return {
        "status": {"$in": ACTIVE_STATES},
        # Runs of foreign workers carry no lease; nobody can tell whether those are alive.
        "leaseExpiresAt": {"$type": "date"},
        "$expr": {"$lt": ["$leaseExpiresAt", "$$NOW"]},
    }
