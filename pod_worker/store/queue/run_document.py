"""A run's document and back: the codec between camelCase BSON and the frozen `Run`.

Reading is tolerant: an odd field becomes its default, so one strange document never breaks a list. Writing
builds whole documents from typed values only.
"""

from __future__ import annotations

from datetime import datetime
from typing import TypeVar

from pod_worker.core.run import Checkpoint, Json, Requirements, Run, RunStatus
from pod_worker.store.mongo import Document, literal

T = TypeVar("T")

LEASE_FIELDS = ["leaseToken", "leaseExpiresAt", "claimedBy", "claimedAt"]
HISTORY_LIMIT = 50


def run_from_document(document: Document) -> Run:
    """Never raises on odd content, only on a document without `_id`."""
    status = _text(document, "status") or "QUEUED"
    try:
        state = RunStatus.parse(status)
    except ValueError:
        state = RunStatus.FAILED  # an unknown word: nobody may claim it, a person may reset it
    pipeline = _text(document, "pipeline") or "experiment"
    return Run(
        id=str(document["_id"]),
        pipeline=pipeline,
        queue=_text(document, "queue") or pipeline,
        status=state,
        params=_typed(document, "params", dict) or {},
        attempt=_integer(document, "attempt"),
        priority=_integer(document, "priority"),
        max_attempts=_integer(document, "maxAttempts") or 3,
        retry_count=_integer(document, "retryCount"),
        crash_count=_integer(document, "crashCount"),
        hypothesis_id=_text(document, "hypothesisId"),
        checkpoints=_checkpoints(document.get("checkpoints")),
        requirements=_requirements(document.get("requirements")),
        queued_at=_typed(document, "queuedAt", datetime),
        run_after=_max_datetime(_typed(document, "runAfter", datetime), _typed(document, "heldUntil", datetime)),
        created_at=_typed(document, "createdAt", datetime),
        claimed_by=_text(document, "claimedBy"),
        lease_expires_at=_typed(document, "leaseExpiresAt", datetime),
        cancel_requested_at=_typed(document, "cancelRequestedAt", datetime),
        error_code=_text(document, "errorCode"),
        error_message=_text(document, "errorMessage"),
        labels={str(k): str(v) for k, v in (_typed(document, "labels", dict) or {}).items()},
    )


def checkpoint_document(checkpoint: Checkpoint) -> Document:
    return {"done": checkpoint.done, "state": checkpoint.state, "attempt": checkpoint.attempt}


def requirements_document(requirements: Requirements) -> Document:
    fields = {
        "gpu": requirements.gpu,
        "minVramGb": requirements.min_vram_gb,
        "region": requirements.region,
    }
    return {name: value for name, value in fields.items() if value is not None}


def history_append(what: str | Document, *, raised: int = 0, **details: Json) -> Document:
    """A line for the run's short history: what happened to it, by whose hand, at the server's time.

    `what` may be an expression. `raised`: by how much the same write raises the attempt.
    """
    entry = {name: literal(value) for name, value in details.items() if value is not None}
    line = {
        "at": "$$NOW",
        "what": literal(what) if isinstance(what, str) else what,
        "attempt": {"$add": [{"$ifNull": ["$attempt", 0]}, raised]},
    } | entry
    return {"$slice": [{"$concatArrays": [{"$ifNull": ["$history", []]}, [line]]}, -HISTORY_LIMIT]}


def _checkpoints(value: Json) -> dict[str, Checkpoint]:
    if not isinstance(value, dict):
        return {}
    return {
        stage: Checkpoint(stage, bool(entry.get("done")), entry.get("state") or {}, entry.get("attempt") or 0)
        for stage, entry in value.items()
        if isinstance(entry, dict)
    }


def _requirements(value: Json) -> Requirements:
    if not isinstance(value, dict):
        return Requirements()
    vram = value.get("minVramGb")
    return Requirements(
        gpu=_text(value, "gpu"),
        min_vram_gb=float(vram) if isinstance(vram, int | float) else None,
        region=_text(value, "region"),
    )


def _text(document: Document, field: str) -> str | None:
    return _typed(document, field, str)


def _integer(document: Document, field: str) -> int:
    value = document.get(field)
    return int(value) if isinstance(value, int | float) else 0


def _max_datetime(one: datetime | None, other: datetime | None) -> datetime | None:
    return max(one, other) if one and other else one or other


def _typed(document: Document, field: str, kind: type[T]) -> T | None:
    value = document.get(field)
    return value if isinstance(value, kind) else None
