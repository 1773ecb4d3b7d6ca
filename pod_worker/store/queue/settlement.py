"""The end of an attempt: the state and budget that follow from its outcome.

It also makes the update that records them.

The decision is pure. The update is a pipeline for `run_queue.settle`, which fences it. Nothing here reads or
writes.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from pod_worker.core.failure import Failure, FailureClass, FailureCode, backoff_seconds
from pod_worker.core.lease import Fence
from pod_worker.core.outcome import Canceled, Failed, Lost, Outcome, Released, Succeeded
from pod_worker.core.retry import is_retry_wanted, prevented_retry
from pod_worker.core.run import Run, RunStatus
from pod_worker.store.mongo import Document, literal
from pod_worker.store.queue.run_document import LEASE_FIELDS, history_append, incremented


@dataclass(frozen=True, slots=True)
class Settlement:
    """The state after the attempt. QUEUED means that the run is retried."""

    status: RunStatus
    retry_in_seconds: float | None = None
    code: FailureCode | None = None


def decide_settlement(run: Run, outcome: Outcome, rng: random.Random) -> Settlement:
    """The state after the attempt.

    A requested cancel outranks every outcome but success.
    """
    if isinstance(outcome, Succeeded):
        return Settlement(RunStatus.AWAITING_HUMAN if outcome.awaits_review else RunStatus.COMPLETED)
    if isinstance(outcome, Canceled) or run.cancel_requested_at is not None:
        return Settlement(RunStatus.CANCELED, code=FailureCode.CANCELED)
    if isinstance(outcome, Failed):
        return decide_failure(run, outcome.failure, rng)
    return Settlement(RunStatus.QUEUED)


def decide_failure(run: Run, failure: Failure, rng: random.Random) -> Settlement:
    """Retry or end, from the code's policy and the run's `max_attempts`.

    `max_attempts` limits failed attempts of every kind. Crashes count since the last checkpoint only.
    """
    policy = failure.policy
    if not is_retry_wanted(failure, run.retry_on):
        return Settlement(RunStatus.FAILED, code=failure.code)
    is_infra = policy.failure_class is FailureClass.INFRA
    if run.failed_attempts + 1 >= run.max_attempts:
        return Settlement(RunStatus.FAILED, code=FailureCode.POISON if is_infra else failure.code)
    retries = run.crash_count if is_infra else run.retry_count
    return Settlement(RunStatus.QUEUED, backoff_seconds(failure.code, retries, rng), failure.code)


def settlement_update(
    fence: Fence, outcome: Outcome, settlement: Settlement, retry_on: Sequence[str] | None = None
) -> list[Document]:
    values: Document = {
        "status": settlement.status.value,
        "settledToken": fence.token,
        "settledAs": settlement.status.value,
        "history": history_append(_history_label(outcome), code=settlement.code, detail=_detail(outcome)),
    } | _budgets(outcome, settlement)
    values |= _ended_at_field(settlement.status) | _error_fields(outcome, settlement, retry_on)
    removed = list(LEASE_FIELDS)
    if isinstance(outcome, Succeeded):
        removed += ["errorCode", "errorMessage", "errorTraceback", "retryable"]
    return [{"$set": values}, {"$unset": removed}]


def _budgets(outcome: Outcome, settlement: Settlement) -> Document:
    fields: Document = {}
    if isinstance(outcome, Failed) and settlement.status is not RunStatus.CANCELED:
        infra = outcome.failure.policy.failure_class is FailureClass.INFRA
        counter = "crashCount" if infra else "retryCount"
        fields[counter] = incremented(counter)
    if settlement.status is RunStatus.QUEUED:
        wait = settlement.retry_in_seconds
        fields["queuedAt"] = {"$ifNull": ["$queuedAt", "$$NOW"]}  # the run keeps its place in the queue
        fields["runAfter"] = {"$add": ["$$NOW", round(wait * 1000)]} if wait else "$$REMOVE"
    return fields


def _ended_at_field(status: RunStatus) -> Document:
    field_of = {
        RunStatus.COMPLETED: "completedAt",
        RunStatus.AWAITING_HUMAN: "completedAt",
        RunStatus.FAILED: "failedAt",
        RunStatus.CANCELED: "canceledAt",
    }
    return {field_of[status]: "$$NOW"} if status in field_of else {}


def _error_fields(outcome: Outcome, settlement: Settlement, retry_on: Sequence[str] | None) -> Document:
    if not isinstance(outcome, Failed) or settlement.status is RunStatus.CANCELED:
        return {}
    failure = outcome.failure
    message = failure.message
    if settlement.code is FailureCode.POISON:
        message = f"No attempt succeeded within max_attempts. The last one failed with {failure.code}: {message}"
    elif cause := prevented_retry(failure, retry_on):
        message = f"{message}\n{cause}"
    return {
        "errorCode": (settlement.code or failure.code).value,
        "errorMessage": literal(message),
        "errorTraceback": literal(failure.traceback),
        "errorStage": literal(failure.stage),
        "retryable": settlement.status is RunStatus.QUEUED,
        "exitCode": "$$REMOVE" if failure.exit_code is None else failure.exit_code,
    }


def _history_label(outcome: Outcome) -> str:
    return type(outcome).__name__.lower()


def _detail(outcome: Outcome) -> str | None:
    match outcome:
        case Failed(failure):
            return f"{failure.code}: {failure.message}"[:300]
        case Released(reason) | Lost(reason) | Canceled(_, reason):
            return reason
        case _:
            return None
