"""What a person may do to a run or a queue: cancel, reset, retry a stage, hide, pause, resume.

Each verb is one conditional write and answers with a value that says what happened; none of them asks a worker
for anything. A reset raises `attempt`, so whoever still holds the old one can write nothing more.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pymongo import ReturnDocument

from pod_worker.core.run import ACTIVE, TERMINAL, Json, Run, RunStatus
from pod_worker.store.collections import QUEUES, RUNS
from pod_worker.store.mongo import Document, Mongo, literal
from pod_worker.store.queue.run_document import LEASE_FIELDS, history_append, run_from_document

ENDINGS = ["completedAt", "failedAt", "canceledAt"]
ERRORS = ["errorCode", "errorMessage", "errorTraceback", "errorStage", "retryable"]
REQUESTS = ["cancelRequestedAt", "cancelRequestedBy", "cancelReason", "runAfter", "settledToken", "settledAs"]

# Nobody holds a lease and could confirm: it waits, or it is a foreign or a hand-made run.
_IS_FREE: Document = {"$eq": [{"$type": "$leaseToken"}, "missing"]}


class ActionResult(StrEnum):
    DONE = "done"
    REQUESTED = "requested"  # a live worker was told; it will confirm
    ALREADY = "already"  # nothing to do
    LIVE = "live"  # refused: a worker holds a live lease
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class ActionOutcome:
    verdict: ActionResult
    run: Run | None = None


class OperatorActions:
    def __init__(self, database: Mongo, *, collection: str = RUNS) -> None:
        self._runs = database[collection]
        self._queues = database[QUEUES]

    def cancel(self, run_id: str, by: str | None = None, reason: str | None = None) -> ActionOutcome:
        """End a waiting run now; ask a running one to end (its worker sees it at the next renewal).

        One write that decides by what it finds, so that no worker can slip through between two questions.
        """

        def either(free: Json, held: Json) -> Document:
            return {"$cond": [_IS_FREE, free, held]}

        after = self._update_run(
            {"_id": run_id, "status": {"$nin": [status.value for status in TERMINAL]}},
            {
                "status": either(RunStatus.CANCELED.value, "$status"),
                "canceledAt": either("$$NOW", "$canceledAt"),
                "cancelRequestedAt": either("$cancelRequestedAt", {"$ifNull": ["$cancelRequestedAt", "$$NOW"]}),
                "cancelRequestedBy": either("$cancelRequestedBy", literal(by)),
                "cancelReason": literal(reason),
                "history": history_append(either("canceled", "cancel requested"), by=by, detail=reason),
            },
        )
        if after is None:
            return self._not_applicable(run_id)
        return ActionOutcome(
            ActionResult.DONE if after.status is RunStatus.CANCELED else ActionResult.REQUESTED, after
        )

    def reset(
        self, run_id: str, by: str | None = None, *, force: bool = False, from_scratch: bool = False
    ) -> ActionOutcome:
        """Any ended or stale run → QUEUED with a raised attempt. Finished stages are kept unless the run was
        complete or `from_scratch` is asked. A live lease is refused unless `force`, which fences it: the run
        is claimable again when that lease would have ended, because its holder may need that long to let go."""
        while (run := self._find(run_id)) is not None:
            if run.status is RunStatus.QUEUED and run.run_after is None and not from_scratch:
                return ActionOutcome(ActionResult.ALREADY, run)
            keeps = run.status in ACTIVE | {RunStatus.FAILED, RunStatus.CANCELED, RunStatus.QUEUED}
            condition = _unchanged_filter(run)
            if run.status in ACTIVE and not force:
                condition["$expr"] = {"$lte": [{"$ifNull": ["$leaseExpiresAt", None]}, "$$NOW"]}
            after = self._requeue(
                condition, _requeue_values(from_scratch or not keeps, history_append("reset", by=by))
            )
            if after:
                return ActionOutcome(ActionResult.DONE, after)
            if self._is_as_seen(run):
                return ActionOutcome(ActionResult.LIVE, self._find(run_id))
        return ActionOutcome(ActionResult.MISSING)

    def retry_stage(self, run_id: str, stage: str, by: str | None = None) -> ActionOutcome:
        """Forget one stage of an ended run and queue it again; every other finished stage is kept."""
        while (run := self._find(run_id)) is not None:
            if run.status not in TERMINAL:
                return ActionOutcome(ActionResult.LIVE, run)
            kept = {"$unsetField": {"field": stage, "input": {"$ifNull": ["$checkpoints", {}]}}}
            values = _requeue_values(False, history_append("retry stage", by=by, detail=stage)) | {
                "checkpoints": kept
            }
            after = self._requeue(_unchanged_filter(run), values)
            if after:
                return ActionOutcome(ActionResult.DONE, after)
            if self._is_as_seen(run):
                break  # an odd document: no attempt that could be raised
        return self._not_applicable(run_id)

    def hide(self, run_id: str, hidden: bool = True) -> ActionOutcome:
        after = self._update_run({"_id": run_id}, {"hidden": hidden})
        return ActionOutcome(ActionResult.DONE, after) if after else ActionOutcome(ActionResult.MISSING)

    def pause(self, queue: str, by: str | None = None) -> None:
        """Nobody claims from the queue any more; running runs go on."""
        change = {"$set": {"paused": True, "by": by}, "$currentDate": {"at": True}}
        self._queues.update_one({"_id": queue}, change, upsert=True)

    def resume(self, queue: str, by: str | None = None) -> None:
        change = {"$set": {"paused": False, "by": by}, "$currentDate": {"at": True}}
        self._queues.update_one({"_id": queue}, change, upsert=True)

    def _requeue(self, condition: Document, values: Document) -> Run | None:
        return self._update_run(condition, values, ENDINGS + ERRORS + REQUESTS + LEASE_FIELDS)

    def _is_as_seen(self, run: Run) -> bool:
        """Whether nobody moved it meanwhile: then looking again changes nothing."""
        now = self._find(run.id)
        return now is not None and (now.attempt, now.status) == (run.attempt, run.status)

    def _not_applicable(self, run_id: str) -> ActionOutcome:
        run = self._find(run_id)
        return ActionOutcome(ActionResult.ALREADY, run) if run else ActionOutcome(ActionResult.MISSING)

    def _find(self, run_id: str) -> Run | None:
        document = self._runs.find_one({"_id": run_id})
        return run_from_document(document) if document else None

    def _update_run(self, condition: Document, values: Document, unset: list[str] | None = None) -> Run | None:
        update: list[Document] = [{"$set": values}]
        if unset:
            update.append({"$unset": unset})
        after = self._runs.find_one_and_update(condition, update, return_document=ReturnDocument.AFTER)
        return run_from_document(after) if after else None


def _unchanged_filter(run: Run) -> Document:
    """Still in the attempt and state that were looked at; a hand-made run may have no attempt yet."""
    status = [run.status.value] + (["STARTING"] if run.status is RunStatus.SCHEDULED else [])
    return {
        "_id": run.id,
        "attempt": {"$in": [run.attempt, *([] if run.attempt else [None])]},
        "status": {"$in": status},
    }


def _requeue_values(forget: bool, history: Document) -> Document:
    values: Document = {
        "status": RunStatus.QUEUED.value,
        "attempt": {"$add": [{"$ifNull": ["$attempt", 0]}, 1]},
        "retryCount": 0,
        "crashCount": 0,
        "queuedAt": "$$NOW",
        "queue": {"$ifNull": ["$queue", {"$ifNull": ["$pipeline", "experiment"]}]},
        "pipeline": {"$ifNull": ["$pipeline", "experiment"]},
        "priority": {"$ifNull": ["$priority", 0]},
        "history": history,
        # Whoever held the run may go on until the lease it was granted is over; only then may another begin.
        "heldUntil": {"$ifNull": [{"$max": ["$heldUntil", _live_lease_end()]}, "$$REMOVE"]},
    }
    return values | ({"checkpoints": {"$literal": {}}} if forget else {})


def _live_lease_end() -> Document:
    return {"$cond": [{"$gt": ["$leaseExpiresAt", "$$NOW"]}, "$leaseExpiresAt", None]}
