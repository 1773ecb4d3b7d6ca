"""A run to enqueue: its checks and the statement that inserts it once."""

from __future__ import annotations

from dataclasses import dataclass, field

import bson

from pod_worker.core.run import (
    DEFAULT_MAX_ATTEMPTS,
    PARAMS_LIMIT_BYTES,
    InvalidRunError,
    Json,
    Requirements,
    RunStatus,
)
from pod_worker.core.run_id import run_id_fault
from pod_worker.store.errors import ENCODING_ERRORS
from pod_worker.store.mongo import Document, literal
from pod_worker.store.queue.run_document import requirements_document


@dataclass(frozen=True, slots=True)
class RunRequest:
    """A run to enqueue. The caller has checked `params` against the pipeline."""

    id: str
    pipeline: str
    params: dict[str, Json]
    queue: str | None = None  # the pipeline's name unless given
    priority: int = 0
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    unique_key: str | None = None
    hypothesis_id: str | None = None
    requirements: Requirements = field(default_factory=Requirements)
    labels: dict[str, str] = field(default_factory=dict)


def check_request(request: RunRequest) -> None:
    """Raises InvalidRunError for a run that cannot be stored or addressed."""
    if fault := run_id_fault(request.id):
        raise InvalidRunError(f"The run's id {str(request.id)[:80]!r} {fault}. Choose another id.")
    for name in ("pipeline", "queue", "priority", "max_attempts", "unique_key", "hypothesis_id", "labels"):
        _check_storable(name, getattr(request, name))
    size = sum(_check_storable(f"parameter {name}", value) for name, value in request.params.items())
    if size > PARAMS_LIMIT_BYTES:
        raise InvalidRunError(
            f"The parameters have {size} bytes; at most {PARAMS_LIMIT_BYTES} are stored with a run. "
            "Put the data into a file or an artifact and pass its name."
        )


def _check_storable(name: str, value: Json) -> int:
    """The size of the value in BSON."""
    try:
        return len(bson.encode({name: value}))
    except ENCODING_ERRORS as error:
        raise InvalidRunError(
            f"{name[:80]} cannot be stored: {error}. Use 64-bit integers, valid Unicode, at most 100 levels."
        ) from None


def upsert_filter(request: RunRequest) -> Document:
    """Matches the run that the request would duplicate."""
    if not request.unique_key:
        return {"_id": request.id}
    # With its type, because the server uses a partial index only for conditions that imply its filter.
    return {"uniqueKey": {"$eq": request.unique_key, "$type": "string"}}


def insert_pipeline(request: RunRequest) -> list[Document]:
    """Insert-only upsert as a pipeline: only that can stamp the server's time."""
    document: Document = {
        "_id": request.id,
        "pipeline": request.pipeline,
        "queue": request.queue or request.pipeline,
        "status": RunStatus.QUEUED.value,
        "priority": request.priority,
        "params": request.params,
        "attempt": 0,
        "maxAttempts": request.max_attempts,
        "retryCount": 0,
        "crashCount": 0,
        "checkpoints": {},
        "requirements": requirements_document(request.requirements),
        "labels": request.labels,
        "history": [],
    }
    if request.unique_key:
        document["uniqueKey"] = request.unique_key
    if request.hypothesis_id:
        document["hypothesisId"] = request.hypothesis_id
    fresh = {"$mergeObjects": [literal(document), {"createdAt": "$$NOW", "queuedAt": "$$NOW"}]}
    is_new = {"$eq": [{"$type": "$createdAt"}, "missing"]}
    return [{"$replaceWith": {"$cond": [is_new, fresh, "$$ROOT"]}}]
