"""The rescue of runs whose worker died: an expired lease sends the run back to the queue, or ends it.

Anyone may call it, at any time, from any number of places: each rescue is one conditional write that re-checks,
by the server's clock, that the lease is still the same and still over.
"""

from __future__ import annotations

from dataclasses import dataclass

from pymongo import ReturnDocument

from pod_worker.core.failure import FailureCode
from pod_worker.core.run import Run, RunStatus
from pod_worker.store.collections import RUNS
from pod_worker.store.mongo import Document, Mongo
from pod_worker.store.queue.run_document import LEASE_FIELDS, history_append, run_from_document
from pod_worker.store.queue.run_queue import ACTIVE_STATES, MAX_CRASHES

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
        found = self._runs.find(expired_lease_filter(), {"_id": 1, "leaseToken": 1, "claimedBy": 1}).limit(BATCH)
        return [rescued for document in found if (rescued := self._rescue(document))]

    def _rescue(self, found: Document) -> Rescued | None:
        condition = expired_lease_filter() | {"_id": found["_id"], "leaseToken": found.get("leaseToken")}
        after = self._runs.find_one_and_update(
            condition, self._rescue_update(), return_document=ReturnDocument.AFTER
        )
        return Rescued(run_from_document(after), found.get("claimedBy")) if after else None

    def _rescue_update(self) -> list[Document]:
        crashes = {"$add": [{"$ifNull": ["$crashCount", 0]}, 1]}
        is_canceled = {"$gt": ["$cancelRequestedAt", None]}
        is_poison = {"$gte": [crashes, self._max_crashes]}

        def case(canceled: object, poison: object, queued: object) -> Document:
            return {"$cond": [is_canceled, canceled, {"$cond": [is_poison, poison, queued]}]}

        poison_text = "gave up: its workers died too often without progress (the last one without a word)"
        lost_text = "the worker stopped renewing its lease"
        return [
            {
                "$set": {
                    "status": case(RunStatus.CANCELED.value, RunStatus.FAILED.value, RunStatus.QUEUED.value),
                    "crashCount": crashes,
                    "canceledAt": case("$$NOW", "$canceledAt", "$canceledAt"),
                    "failedAt": case("$failedAt", "$$NOW", "$failedAt"),
                    "errorCode": case("$errorCode", FailureCode.POISON.value, FailureCode.WORKER_LOST.value),
                    "errorMessage": case("$errorMessage", poison_text, lost_text),
                    "rescuedAt": "$$NOW",
                    "history": history_append("rescued", detail=lost_text),
                }
            },
            {"$unset": LEASE_FIELDS},
        ]


def expired_lease_filter() -> Document:
    return {
        "status": {"$in": ACTIVE_STATES},
        # Runs of foreign workers carry no lease; nobody can tell whether those are alive.
        "leaseExpiresAt": {"$type": "date"},
        "$expr": {"$lt": ["$leaseExpiresAt", "$$NOW"]},
    }
