"""Finding runs by what people type, and the documents of runs as JSON shows them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from pod_worker.cli.exit_codes import CommandError, ExitCode
from pod_worker.cli.output import say
from pod_worker.core.run import TERMINAL, Json, RunStatus
from pod_worker.store.mongo import Document
from pod_worker.store.views.read_models import ReadModels
from pod_worker.submission import run_end
from pod_worker.submission.errors import NoSuchRunError
from pod_worker.submission.lookup import find_run

TERMINAL_STATUSES = {status.value for status in TERMINAL}
ENDED_STATUSES = run_end.ENDED_STATUSES
OPEN_STATUSES = [status.value for status in RunStatus if status not in TERMINAL]
# Scripts find each of these keys in every run; what a run does not have yet is null.
_LISTED_FIELDS = (
    "name", "pipeline", "queue", "status", "priority", "attempt", "maxAttempts", "retryCount", "crashCount",
    "labels", "requirements", "uniqueKey", "createdAt", "queuedAt", "startedAt", "completedAt", "failedAt",
    "canceledAt", "runAfter", "claimedBy", "claimedAt", "leaseExpiresAt", "lastHeartbeat",
    "pod", "currentStage", "metrics", "cancelRequestedAt", "cancelRequestedBy", "canceledBy", "cancelReason",
    "failedAttempts", "errorCode", "errorMessage", "errorStage", "hypothesisId",
)  # fmt: skip
_DETAIL_FIELDS = (*_LISTED_FIELDS, "params", "checkpoints", "history", "stageTiming", "errorTraceback")


def resolve_run(models: ReadModels, run_id: str) -> Document:
    """The run by id, by name (the newest of it), or by the beginning of its id.

    Raises CommandError.
    """
    try:
        return find_run(models, run_id, say)
    except NoSuchRunError as error:
        raise CommandError(str(error), ExitCode.NOT_FOUND) from None


def resolve_ids(models: ReadModels, words: Iterable[str]) -> list[str]:
    """Full ids in the given order, each once. Raises CommandError."""
    return list(dict.fromkeys(str(resolve_run(models, word)["_id"]) for word in words))


def listed_json(run: Mapping[str, Json]) -> Document:
    return {"_id": run.get("_id"), **dict.fromkeys(_LISTED_FIELDS), **run}


def detail_json(run: Mapping[str, Json]) -> Document:
    return {"_id": run.get("_id"), **dict.fromkeys(_DETAIL_FIELDS), **run}


def current_user() -> str:
    return os.environ.get("USER") or os.environ.get("LOGNAME") or f"uid {os.getuid()}"
