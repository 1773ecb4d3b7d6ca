"""Finding runs by what people type, and the documents of runs as JSON shows them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from pod_worker.cli.exit_codes import CommandError, ExitCode
from pod_worker.cli.output import say
from pod_worker.core.run import TERMINAL, UNATTENDED, Json, RunStatus
from pod_worker.store.mongo import Document
from pod_worker.store.views.read_models import ReadModels

TERMINAL_STATUSES = {status.value for status in TERMINAL}
ENDED_STATUSES = {
    status.value for status in RunStatus if status not in UNATTENDED
}  # also those that wait for a person
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
    run = models.run(run_id) or _newest_named(models, run_id)
    if run is not None:
        return run
    near = models.ids_with_prefix(run_id, 3)
    if len(near) == 1 and (found := models.run(near[0])) is not None:
        return found
    if near:
        raise CommandError(f"{run_id!r} is the beginning of several ids: {', '.join(near)}", ExitCode.NOT_FOUND)
    raise CommandError(
        f"there is no run {run_id!r}, neither by id nor by name. See `pod-worker runs list`.", ExitCode.NOT_FOUND
    )


def resolve_ids(models: ReadModels, words: Iterable[str]) -> list[str]:
    """Full ids in the given order, each once. Raises CommandError."""
    return list(dict.fromkeys(str(resolve_run(models, word)["_id"]) for word in words))


def _newest_named(models: ReadModels, name: str) -> Document | None:
    found = models.ids_of_name(name, 2)
    if len(found) > 1:
        say(f"{name}: several runs have this name; this is the newest one, {found[0]}")
    return models.run(found[0]) if found else None


def listed_json(run: Mapping[str, Json]) -> Document:
    return {"_id": run.get("_id"), **dict.fromkeys(_LISTED_FIELDS), **run}


def detail_json(run: Mapping[str, Json]) -> Document:
    return {"_id": run.get("_id"), **dict.fromkeys(_DETAIL_FIELDS), **run}


def current_user() -> str:
    return os.environ.get("USER") or os.environ.get("LOGNAME") or f"uid {os.getuid()}"
