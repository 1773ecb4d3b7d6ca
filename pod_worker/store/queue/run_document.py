"""The codec between a run's document and the frozen `Run`.

Reading is total: a field of another type reads as its default, so one document never breaks a list or a sweep.
Whether a document may be executed is a stricter question, which `document_fault` answers at claim. Expressions in
update pipelines are total too; they leave a value of another type as it is.
"""

from __future__ import annotations

from datetime import UTC, datetime

from pod_worker.core.identifiers.run_id import run_id_fault
from pod_worker.core.run import (
    DEFAULT_MAX_ATTEMPTS,
    TIME_LIMIT_SECONDS,
    AfterFailure,
    Checkpoint,
    Json,
    Requirements,
    Run,
    RunStatus,
)
from pod_worker.store.document_fields import (
    COUNTER_LIMIT,
    counter,
    finite,
    integer,
    mapping,
    moment,
    plain_json,
    text,
    texts,
)
from pod_worker.store.mongo import Document, literal

LEASE_FIELDS = ["leaseToken", "leaseExpiresAt", "claimedBy", "claimedAt"]
# Only a queued run has them: the sweeps read every document that has.
WAITING_FIELDS = ["blockedBy", "startBy"]
HISTORY_LIMIT = 50

_COUNTERS = ("attempt", "maxAttempts", "retryCount", "crashCount")
_MAPPINGS = ("params", "checkpoints", "requirements")
_REQUIRED_NUMBERS = ("minVramGb", "maxVramGb", "gpuCount", "cpus", "memoryGb", "diskGb")
_DATES = ("runAfter", "heldUntil", "leaseExpiresAt")


def run_from_document(document: Document) -> Run:
    """Never raises, except for a document without `_id`."""
    status = text(document, "status") or "QUEUED"
    try:
        state = RunStatus.parse(status)
    except ValueError:
        state = RunStatus.FAILED  # an unknown word: no worker may claim it, a person may reset it
    pipeline = text(document, "pipeline") or "experiment"
    return Run(
        id=str(document["_id"]),
        pipeline=pipeline,
        queue=text(document, "queue") or pipeline,
        status=state,
        params=plain_json(mapping(document, "params")),
        attempt=counter(document.get("attempt")) or 0,
        priority=integer(document.get("priority")) or 0,
        max_attempts=counter(document.get("maxAttempts")) or DEFAULT_MAX_ATTEMPTS,
        retry_count=counter(document.get("retryCount")) or 0,
        crash_count=counter(document.get("crashCount")) or 0,
        hypothesis_id=text(document, "hypothesisId"),
        checkpoints=_checkpoints(mapping(document, "checkpoints")),
        requirements=_requirements(mapping(document, "requirements")),
        queued_at=moment(document, "queuedAt"),
        run_after=_latest(moment(document, "runAfter"), moment(document, "heldUntil")),
        created_at=moment(document, "createdAt"),
        claimed_by=text(document, "claimedBy"),
        lease_expires_at=moment(document, "leaseExpiresAt"),
        cancel_requested_at=_cancel_requested_at(document),
        error_code=text(document, "errorCode"),
        error_message=text(document, "errorMessage"),
        labels={str(name): str(value) for name, value in mapping(document, "labels").items()},
        name=text(document, "name"),
        after=texts(document, "after"),
        blocked_by=texts(document, "blockedBy"),
        after_failure=AfterFailure.SKIP if document.get("afterFailure") == "skip" else AfterFailure.FAIL,
        max_queue_seconds=finite(document.get("maxQueueSeconds")),
        max_duration_seconds=finite(document.get("maxDurationSeconds")),
        retry_on=texts(document, "retryOn") if isinstance(document.get("retryOn"), list) else None,
        exit_code=integer(document.get("exitCode")),
    )


def document_fault(document: Document) -> str | None:
    """Why a claimed run may not be executed although it could be read.

    Names the field and what is wrong with it.

    A worker would otherwise run with unintended defaults, or hold a fence that matches no document.
    """
    if fault := run_id_fault(document.get("_id")):
        return f"its id {fault}"
    for field, value in document.items():
        if value is not None and (fault := _field_fault(field, value)):
            return f"field {field} is {_shown(value)}, not {fault}"
    if not counter(document.get("attempt")):
        return f"field attempt is {_shown(document.get('attempt'))}, not the number of an attempt"
    for field in _REQUIRED_NUMBERS:
        value = mapping(document, "requirements").get(field)
        if value is not None and finite(value) is None:
            return f"field requirements.{field} is {_shown(value)}, not a number"
    return None


def _field_fault(field: str, value: Json) -> str | None:
    if field in _COUNTERS and counter(value) is None:
        return f"a whole number from 0 to {COUNTER_LIMIT}"
    if field == "priority" and finite(value) is None:
        return "a number"
    if field in _MAPPINGS and not isinstance(value, dict):
        return "an object"
    if field == "history" and not isinstance(value, list):
        return "an array"
    if field in _DATES and not isinstance(value, datetime):
        return "a date up to the year 9999"
    if field in ("queue", "pipeline") and not isinstance(value, str):
        return "a string"
    return None


def _shown(value: Json) -> str:
    return f"{type(value).__name__} {str(value)[:60]!r}"


def checkpoint_document(checkpoint: Checkpoint) -> Document:
    return {"done": checkpoint.done, "state": checkpoint.state, "attempt": checkpoint.attempt}


def requirements_document(requirements: Requirements) -> Document:
    fields = {
        "gpu": requirements.gpu,
        "minVramGb": requirements.min_vram_gb,
        "maxVramGb": requirements.max_vram_gb,
        "gpuCount": requirements.gpu_count,
        "cpus": requirements.cpus,
        "memoryGb": requirements.memory_gb,
        "diskGb": requirements.disk_gb,
        "region": requirements.region,
    }
    return {name: value for name, value in fields.items() if value is not None}


# ── expressions for update pipelines ────────────────────────────────────────────────────────────────────────


def incremented(field: str) -> Document:
    """The counter plus 1.

    A missing one counts as 0, a value that is no number stays as it is.
    """
    current = {"$ifNull": [f"${field}", 0]}
    return {"$cond": [{"$isNumber": current}, {"$add": [current, 1]}, f"${field}"]}


def number_or(field: str, default: int) -> Document:
    """The field if it is a number, else the default."""
    return {"$cond": [{"$isNumber": f"${field}"}, f"${field}", default]}


def start_by(max_queue_seconds: float | None, *, is_blocked: bool = False) -> Json:
    """The value of `startBy` in an update pipeline, from the server's time."""
    if is_blocked or max_queue_seconds is None or not 0 < max_queue_seconds <= TIME_LIMIT_SECONDS:
        return "$$REMOVE"
    return {"$add": ["$$NOW", round(max_queue_seconds * 1000)]}


def history_append(what: str | Document, *, raised: int = 0, **details: Json) -> Document:
    """The run's short history with one more entry: what, who, the server's time.

    `what` may be an expression. `raised`: by how much the same write raises the attempt. A history that is no
    array stays as it is.
    """
    entry = {name: literal(value) for name, value in details.items() if value is not None}
    line = {
        "at": "$$NOW",
        "what": literal(what) if isinstance(what, str) else what,
        "attempt": {"$add": [number_or("attempt", 0), raised]},
    } | entry
    known = {"$ifNull": ["$history", []]}
    longer = {"$slice": [{"$concatArrays": [known, [line]]}, -HISTORY_LIMIT]}
    return {"$cond": [{"$isArray": [known]}, longer, "$history"]}


def _checkpoints(value: Document) -> dict[str, Checkpoint]:
    return {
        stage: Checkpoint(
            stage,
            entry.get("done") is True,
            plain_json(mapping(entry, "state")),
            counter(entry.get("attempt")) or 0,
        )
        for stage, entry in value.items()
        if isinstance(entry, dict)
    }


def _requirements(value: Document) -> Requirements:
    return Requirements(
        gpu=text(value, "gpu"),
        region=text(value, "region"),
        min_vram_gb=finite(value.get("minVramGb")),
        max_vram_gb=finite(value.get("maxVramGb")),
        gpu_count=integer(value.get("gpuCount")),
        cpus=finite(value.get("cpus")),
        memory_gb=finite(value.get("memoryGb")),
        disk_gb=finite(value.get("diskGb")),
    )


def _cancel_requested_at(document: Document) -> datetime | None:
    """Any value but null is a request.

    A program that wrote something else than a date meant to cancel.
    """
    value = document.get("cancelRequestedAt")
    if value is None or isinstance(value, datetime):
        return value
    return datetime.fromtimestamp(0, UTC)


def _latest(one: datetime | None, other: datetime | None) -> datetime | None:
    return max(one, other) if one and other else one or other
