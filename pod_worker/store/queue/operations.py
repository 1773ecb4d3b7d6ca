"""Actions of operators: cancel, reset, retry a stage, hide, pause, resume.

Each action is one conditional write and returns a value that says what happened; none of them contacts a worker.
A reset raises `attempt`, so a worker that still holds the old attempt can write nothing more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from pymongo import ReturnDocument

from pod_worker.core.run import ACTIVE, ENDED_WELL, TERMINAL, UNATTENDED, Json, Run, RunStatus
from pod_worker.store.collections import QUEUES, RUNS
from pod_worker.store.document_fields import finite
from pod_worker.store.mongo import Document, Mongo, literal, tolerant_rows
from pod_worker.store.queue.document_room import write_with_room
from pod_worker.store.queue.run_document import (
    LEASE_FIELDS,
    WAITING_FIELDS,
    history_append,
    run_from_document,
    start_by,
)

ENDINGS = ["completedAt", "failedAt", "canceledAt"]
ERRORS = ["errorCode", "errorMessage", "errorTraceback", "errorStage", "retryable", "exitCode"]
REQUESTS = ["cancelRequestedAt", "cancelRequestedBy", "cancelReason", "runAfter", "settledToken", "settledAs"]

# No worker holds a lease and could confirm: the run waits, or another program executes it.
_IS_FREE: Document = {"$eq": [{"$type": "$leaseToken"}, "missing"]}


class ActionResult(StrEnum):
    DONE = "done"
    REQUESTED = "requested"  # a live worker will see the request and confirm it
    ALREADY = "already"  # nothing to do
    LIVE = "live"  # refused: a worker holds a live lease
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class ActionOutcome:
    verdict: ActionResult
    run: Run | None = None


class OperatorActions:
    def __init__(self, database: Mongo, *, collection: str = RUNS) -> None:
        self._runs = tolerant_rows(database, collection)
        self._queues = tolerant_rows(database, QUEUES)

    def cancel(self, run_id: str, by: str | None = None, reason: str | None = None) -> ActionOutcome:
        """End a waiting run now; request the end of a running one.

        Its worker sees the request at the next renewal.

        One write that decides by what it finds, so that no worker can claim the run between two steps.
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
            }
            | {name: either("$$REMOVE", f"${name}") for name in WAITING_FIELDS},
        )
        if after is None:
            return self._not_applicable(run_id)
        is_done = after.status is RunStatus.CANCELED
        return ActionOutcome(ActionResult.DONE if is_done else ActionResult.REQUESTED, after)

    def reset(
        self,
        run_id: str,
        by: str | None = None,
        *,
        force: bool = False,
        from_scratch: bool = False,
        params: Mapping[str, Json] | None = None,
    ) -> ActionOutcome:
        """Any ended or stale run → QUEUED with a raised attempt and unspent budgets.

        Finished stages are kept unless the run was complete, `from_scratch` is set, or there are new `params`
        (checked by the caller; they replace the old ones, whose checkpoints may not fit them). Bookkeeping fields
        of a wrong type are repaired. A live lease is refused unless `force`, which fences it: the run is claimable
        again when that lease would have ended, because its worker may need that long to stop.
        """
        from_scratch = from_scratch or params is not None
        while (document := self._find(run_id)) is not None:
            run = run_from_document(document)
            if run.status is RunStatus.QUEUED and run.run_after is None and not from_scratch:
                return ActionOutcome(ActionResult.ALREADY, run)
            keeps = run.status in ACTIVE | {RunStatus.FAILED, RunStatus.CANCELED, RunStatus.QUEUED}
            condition = _unchanged_filter(document)
            if run.status in ACTIVE and not force:
                condition["$expr"] = {"$lte": [{"$ifNull": ["$leaseExpiresAt", None]}, "$$NOW"]}
            changed = "new parameters" if params is not None else None
            values = self._requeue_values(document, history_append("reset", by=by, detail=changed))
            if params is not None:
                values["params"] = literal(dict(params))
            if from_scratch or not keeps:
                values["checkpoints"] = literal({})
            after = self._requeue(condition, values)
            if after:
                return ActionOutcome(ActionResult.DONE, after)
            if self._is_unchanged(document):
                return ActionOutcome(ActionResult.LIVE, run)
        return ActionOutcome(ActionResult.MISSING)

    def _requeue_values(self, document: Document, history: Document) -> Document:
        return _queued_values(document, history) | self._waiting_values(run_from_document(document))

    def _waiting_values(self, run: Run) -> Document:
        """A run that is queued again waits for those runs that are still going.

        Whether those that ended are good enough is the operator's decision.
        """
        ended = [status.value for status in TERMINAL | ENDED_WELL]
        open_runs = self._runs.find({"_id": {"$in": list(run.after)}, "status": {"$nin": ended}}, {"_id": 1})
        blocked_by = [other["_id"] for other in open_runs] if run.after else []
        return {
            "blockedBy": literal(blocked_by) if blocked_by else "$$REMOVE",
            "startBy": start_by(run.max_queue_seconds, is_blocked=bool(blocked_by)),
        }

    def retry_stage(
        self, run_id: str, stage: str, by: str | None = None, *, later: Sequence[str] = ()
    ) -> ActionOutcome:
        """Forget a stage of an ended run and queue the run again.

        `later` are the stages that used its result; they are forgotten too. Every other finished stage is kept.
        """
        while (document := self._find(run_id)) is not None:
            run = run_from_document(document)
            if run.status in UNATTENDED:
                return ActionOutcome(ActionResult.LIVE, run)
            values = self._requeue_values(document, history_append("retry stage", by=by, detail=stage))
            for name in (stage, *later):
                values["checkpoints"] = {"$unsetField": {"field": literal(name), "input": values["checkpoints"]}}
            after = self._requeue(_unchanged_filter(document), values)
            if after:
                return ActionOutcome(ActionResult.DONE, after)
            if self._is_unchanged(document):
                break
        return self._not_applicable(run_id)

    def hide(self, run_id: str, hidden: bool = True) -> ActionOutcome:
        after = self._update_run({"_id": run_id}, {"hidden": hidden})
        return ActionOutcome(ActionResult.DONE, after) if after else ActionOutcome(ActionResult.MISSING)

    def pause(self, queue: str, by: str | None = None) -> None:
        """Stop claims from the queue; running runs go on."""
        self._set_paused(queue, True, by)

    def resume(self, queue: str, by: str | None = None) -> None:
        self._set_paused(queue, False, by)

    def _set_paused(self, queue: str, paused: bool, by: str | None) -> None:
        change = {"$set": {"paused": paused, "by": by}, "$currentDate": {"at": True}}
        self._queues.update_one({"_id": queue}, change, upsert=True)

    def _requeue(self, condition: Document, values: Document) -> Run | None:
        return self._update_run(condition, values, ENDINGS + ERRORS + REQUESTS + LEASE_FIELDS)

    def _is_unchanged(self, seen: Document) -> bool:
        """Whether the run was not moved meanwhile: then looking again changes nothing."""
        now = self._find(str(seen["_id"]))
        return now is not None and _state(now) == _state(seen)

    def _not_applicable(self, run_id: str) -> ActionOutcome:
        document = self._find(run_id)
        if document is None:
            return ActionOutcome(ActionResult.MISSING)
        return ActionOutcome(ActionResult.ALREADY, run_from_document(document))

    def _find(self, run_id: str) -> Document | None:
        return self._runs.find_one({"_id": run_id})

    def _update_run(self, condition: Document, values: Document, unset: list[str] | None = None) -> Run | None:
        update: list[Document] = [{"$set": values}]
        if unset:
            update.append({"$unset": unset})
        after = write_with_room(
            lambda each: self._runs.find_one_and_update(condition, each, return_document=ReturnDocument.AFTER),
            update,
        )
        return run_from_document(after) if after else None


def _state(document: Document) -> tuple[str, str]:
    """As text, because NaN equals nothing."""
    return repr(document.get("attempt")), repr(document.get("status"))


def _unchanged_filter(seen: Document) -> Document:
    """Still in the attempt and the state of the document.

    A run of another program may have neither.

    Not while a prune deletes the run.
    """
    return {
        "_id": seen["_id"],
        "attempt": {"$eq": seen.get("attempt")},
        "status": {"$eq": seen.get("status")},
        "condemnedAt": None,
    }


def _queued_values(document: Document, history: Document) -> Document:
    """Values of a queued run.

    Fields of a wrong type get their defaults, so that a quarantined run can be executed again.
    """
    run, priority = run_from_document(document), document.get("priority")
    return {
        "status": RunStatus.QUEUED.value,
        "attempt": run.attempt + 1,
        "retryCount": 0,
        "crashCount": 0,
        "maxAttempts": run.max_attempts,
        "queuedAt": "$$NOW",
        "queue": literal(run.queue),
        "pipeline": literal(run.pipeline),
        "priority": 0 if finite(priority) is None else priority,
        "params": _object_or_empty("params"),
        "checkpoints": _object_or_empty("checkpoints"),
        "requirements": _object_or_empty("requirements"),
        "history": history,
        # The worker that held the run may go on until its lease is over; only then may another attempt begin.
        "heldUntil": {"$ifNull": [{"$max": [_date_or_null("heldUntil"), _live_lease_end()]}, "$$REMOVE"]},
    }


def _object_or_empty(field: str) -> Document:
    return {"$cond": [{"$eq": [{"$type": f"${field}"}, "object"]}, f"${field}", literal({})]}


def _date_or_null(field: str) -> Document:
    return {"$cond": [{"$eq": [{"$type": f"${field}"}, "date"]}, f"${field}", None]}


def _live_lease_end() -> Document:
    return {"$cond": [{"$gt": ["$leaseExpiresAt", "$$NOW"]}, _date_or_null("leaseExpiresAt"), None]}
