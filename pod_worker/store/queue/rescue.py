"""The rescue of runs whose worker died: requeue or end those whose lease is over.

Any process may call it at any time. Each rescue is one conditional write that checks again, by the server's
clock, that the lease is still the same and still expired. A document that the server refuses to update is
quarantined, so that it cannot hold up the rescue of other runs.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from pymongo import ASCENDING, ReturnDocument
from pymongo.errors import PyMongoError

from pod_worker.core.failure import Failure, FailureCode
from pod_worker.core.identifiers.run_id import UNREADABLE
from pod_worker.core.retry import INTERRUPTION, prevented_retry
from pod_worker.core.run import DEFAULT_MAX_ATTEMPTS, Run, RunStatus
from pod_worker.store.collections import RUNS
from pod_worker.store.errors import describe_error, is_permanent_error
from pod_worker.store.mongo import Document, Mongo, tolerant_rows
from pod_worker.store.queue.dependencies import Dependencies
from pod_worker.store.queue.document_room import quarantine, quarantine_unreadable_ids, write_with_room
from pod_worker.store.queue.run_document import (
    LEASE_FIELDS,
    history_append,
    incremented,
    number_or,
    run_from_document,
)
from pod_worker.store.queue.run_queue import ACTIVE_STATES
from pod_worker.store.queue.start_deadline import StartDeadline

log = logging.getLogger(__name__)

BATCH = 100

_LOST = "The worker stopped renewing its lease."
_POISON = f"No attempt succeeded within max_attempts. In the last one: {_LOST}"
_UNWANTED = f"{_LOST} {prevented_retry(Failure(FailureCode.WORKER_LOST, _LOST), ())}"


@dataclass(frozen=True, slots=True)
class Rescued:
    run: Run  # after the rescue
    worker_id: str | None  # which worker held the expired lease


class Rescue:
    def __init__(self, database: Mongo, *, collection: str = RUNS) -> None:
        self._runs = tolerant_rows(database, collection)
        self._dependencies = Dependencies(database, collection=collection)
        self._start_deadline = StartDeadline(database, collection=collection)
        self._refused: set[str] = set()  # logged already

    def sweep(self) -> list[Rescued]:
        """Requeue or end up to BATCH runs with an expired lease.

        First ends runs that waited too long for a worker, and releases those whose dependencies have ended.
        Without any, it costs three indexed queries.

        Raises PyMongoError when the server does not answer. A document that the server refuses to update costs
        no other run its rescue.
        """
        self._start_deadline.sweep()
        self._dependencies.sweep()
        rescued: list[Rescued] = []
        fields = {"_id": 1, "leaseToken": 1, "claimedBy": 1}
        is_unreadable = False
        for found in self._runs.find(expired_lease_filter(), fields).sort("leaseExpiresAt", ASCENDING):
            if done := self._try_rescue(found):
                rescued.append(done)
                if len(rescued) == BATCH:
                    break
            is_unreadable |= UNREADABLE in str(found["_id"])
        if is_unreadable:
            quarantine_unreadable_ids(self._runs, expired_lease_filter())
        return rescued

    def _try_rescue(self, found: Document) -> Rescued | None:
        try:
            return self._rescue(found)
        except PyMongoError as error:
            if not is_permanent_error(error):
                raise
            self._quarantine(found, error)
            return None

    def _rescue(self, found: Document) -> Rescued | None:
        condition = expired_lease_filter() | {"_id": found["_id"], "leaseToken": found.get("leaseToken")}
        after = write_with_room(
            lambda update: self._runs.find_one_and_update(condition, update, return_document=ReturnDocument.AFTER),
            _rescue_update(),
        )
        worker_id = found.get("claimedBy")
        return Rescued(run_from_document(after), str(worker_id) if worker_id else None) if after else None

    def _quarantine(self, found: Document, error: PyMongoError) -> None:
        message = f"The run's worker is lost, and the run cannot be queued again: {describe_error(error)}"
        try:
            quarantine(
                self._runs, {"_id": found["_id"]} | expired_lease_filter(), FailureCode.BAD_DOCUMENT, message
            )
        except PyMongoError as refusal:
            if not is_permanent_error(refusal):
                raise
        name = str(found["_id"])
        if name not in self._refused and len(self._refused) < BATCH:
            self._refused.add(name)
            log.error("run %r cannot be rescued: %s", name, describe_error(error))


def expired_lease_filter() -> Document:
    """Matches runs whose lease is over by the server's clock."""
    return {
        "status": {"$in": ACTIVE_STATES},
        # Runs of foreign workers carry no lease; whether those workers live cannot be known.
        "leaseExpiresAt": {"$type": "date"},
        "$expr": {"$lt": ["$leaseExpiresAt", "$$NOW"]},
    }


def _rescue_update() -> list[Document]:
    attempts = {"$add": [number_or("retryCount", 0), number_or("crashCount", 0), 1]}
    limit = {"$cond": [{"$gt": [number_or("maxAttempts", 0), 0]}, "$maxAttempts", DEFAULT_MAX_ATTEMPTS]}
    is_canceled = {"$gt": ["$cancelRequestedAt", None]}
    is_spent = {"$gte": [attempts, limit]}
    words = {"$cond": [{"$isArray": ["$retryOn"]}, "$retryOn", [INTERRUPTION]]}
    is_unwanted = {"$not": [{"$in": [INTERRUPTION, words]}]}

    def case(*, canceled: object, unwanted: object, poison: object, queued: object) -> Document:
        branches = [
            {"case": is_canceled, "then": canceled},
            {"case": is_unwanted, "then": unwanted},
            {"case": is_spent, "then": poison},
        ]
        return {"$switch": {"branches": branches, "default": queued}}

    failed, lost = RunStatus.FAILED.value, FailureCode.WORKER_LOST.value
    return [
        {
            "$set": {
                "status": case(
                    canceled=RunStatus.CANCELED.value,
                    unwanted=failed,
                    poison=failed,
                    queued=RunStatus.QUEUED.value,
                ),
                "crashCount": incremented("crashCount"),
                "canceledAt": {"$cond": [is_canceled, "$$NOW", "$canceledAt"]},
                "failedAt": case(canceled="$failedAt", unwanted="$$NOW", poison="$$NOW", queued="$failedAt"),
                "errorCode": case(
                    canceled="$errorCode", unwanted=lost, poison=FailureCode.POISON.value, queued=lost
                ),
                "errorMessage": case(canceled="$errorMessage", unwanted=_UNWANTED, poison=_POISON, queued=_LOST),
                "rescuedAt": "$$NOW",
                "history": history_append("rescued", detail=_LOST),
            }
        },
        {"$unset": LEASE_FIELDS},
    ]
