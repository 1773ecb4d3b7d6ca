"""A run to enqueue: its checks and the statement that inserts it once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from graphlib import TopologicalSorter

import bson

from pod_worker.core.identifiers.run_id import run_id_fault
from pod_worker.core.retry import retry_word_fault
from pod_worker.core.run import (
    DEFAULT_MAX_ATTEMPTS,
    PARAMS_LIMIT_BYTES,
    TIME_LIMIT_SECONDS,
    AfterFailure,
    InvalidRunError,
    Json,
    Requirements,
    RunStatus,
)
from pod_worker.store.errors import ENCODING_ERRORS
from pod_worker.store.mongo import Document, literal
from pod_worker.store.queue.run_document import requirements_document, start_by


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
    name: str | None = None
    after: tuple[str, ...] = ()  # ids of runs that must end well before this one may start
    after_failure: AfterFailure = AfterFailure.FAIL
    max_queue_seconds: float | None = None  # fails if no worker claimed it by then
    max_duration_seconds: float | None = None  # of one attempt
    retry_on: tuple[str, ...] | None = None  # words of `core.retry`
    sealed_secrets: dict[str, str] = field(default_factory=dict)  # name -> base64


NAME_LIMIT = 200
AFTER_LIMIT = 1_000  # runs that one run may wait for
_FIELDS = (
    "pipeline", "queue", "priority", "max_attempts", "unique_key", "hypothesis_id", "labels", "name",
    "sealed_secrets",
)  # fmt: skip


def check_request(request: RunRequest) -> None:
    """Raises InvalidRunError for a run that cannot be stored or addressed."""
    if fault := run_id_fault(request.id):
        raise InvalidRunError(f"The run's id {str(request.id)[:80]!r} {fault}. Choose another id.")
    if fault := next(_scheduling_faults(request), None):
        raise InvalidRunError(fault)
    for name in _FIELDS:
        check_storable(name, getattr(request, name))
    size = sum(check_storable(f"parameter {name}", value) for name, value in request.params.items())
    if size > PARAMS_LIMIT_BYTES:
        raise InvalidRunError(
            f"The parameters have {size} bytes; at most {PARAMS_LIMIT_BYTES} are stored with a run. "
            "Put the data into a file or an artifact and pass its name."
        )


def _scheduling_faults(request: RunRequest) -> Iterator[str]:
    if request.name is not None and (fault := name_fault(request.name)):
        yield fault
    if len(request.after) > AFTER_LIMIT:
        yield f"The run waits for {len(request.after)} runs; at most {AFTER_LIMIT} are allowed."
    if request.id in request.after:
        yield f"The run {request.id} waits for itself. Leave its id out of `after`."
    for what in ("max_queue_seconds", "max_duration_seconds"):
        seconds = getattr(request, what)
        if seconds is not None and not 0 < seconds <= TIME_LIMIT_SECONDS:
            most = f"{TIME_LIMIT_SECONDS:.0f}"
            yield f"{what} is {seconds}. Give seconds from 1 to {most}, or leave it out for no limit."
    for word in request.retry_on or ():
        if fault := retry_word_fault(word):
            yield f"The retry condition {fault}."


def name_fault(name: str) -> str | None:
    """Why a run cannot have this name; None when it can."""
    if 0 < len(name) <= NAME_LIMIT and name.isprintable():
        return None
    return f"The name {name[:80]!r} must have 1 to {NAME_LIMIT} printable characters."


def check_storable(name: str, value: Json) -> int:
    """The size of the value in BSON. Raises InvalidRunError."""
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
    document |= _scheduling_fields(request)
    dates: Document = {
        "createdAt": "$$NOW",
        "queuedAt": "$$NOW",
        "startBy": start_by(request.max_queue_seconds, is_blocked=bool(request.after)),
    }
    fresh = {"$mergeObjects": [literal(document), dates]}
    is_new = {"$eq": [{"$type": "$createdAt"}, "missing"]}
    return [{"$replaceWith": {"$cond": [is_new, fresh, "$$ROOT"]}}]


def _scheduling_fields(request: RunRequest) -> Document:
    """When the run may start and how often it is repeated.

    Absent fields are not written.
    """
    fields: Document = {
        "name": request.name,
        "after": list(request.after) or None,
        "blockedBy": list(request.after) or None,
        "afterFailure": request.after_failure.value if request.after else None,
        "maxQueueSeconds": request.max_queue_seconds,
        "maxDurationSeconds": request.max_duration_seconds,
        "retryOn": None if request.retry_on is None else list(request.retry_on),
        "sealedSecrets": request.sealed_secrets or None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def in_dependency_order(requests: Sequence[RunRequest]) -> list[RunRequest]:
    """The requests, each after those that it waits for; without circles."""
    by_id = {request.id: request for request in requests}
    graph = {request.id: [name for name in request.after if name in by_id] for request in requests}
    return [by_id[name] for name in TopologicalSorter(graph).static_order()]
