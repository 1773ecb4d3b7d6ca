"""Finding runs by what people type, and the documents of runs as JSON shows them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import click

from pod_worker.cli.completion import complete_labels, complete_queues, complete_run_ids
from pod_worker.cli.exit_codes import CommandError, ExitCode
from pod_worker.cli.options import parse_pair
from pod_worker.cli.output import say
from pod_worker.core.run import TERMINAL, UNATTENDED, Json, RunStatus
from pod_worker.store.mongo import Document
from pod_worker.store.views.read_models import ReadModels, RunFilter

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


def _newest_named(models: ReadModels, name: str) -> Document | None:
    found = models.ids_of_name(name, 2)
    if len(found) > 1:
        say(f"{name}: several runs have this name; this is the newest one, {found[0]}")
    return models.run(found[0]) if found else None


def resolve_ids(models: ReadModels, run_ids: tuple[str, ...]) -> list[str]:
    """Full ids in the given order, each once. Raises CommandError."""
    return list(dict.fromkeys(str(resolve_run(models, each)["_id"]) for each in run_ids))


def runs_selection(command: Callable[..., object]) -> Callable[..., object]:
    """Ids of runs, or options that select open runs."""
    ids = click.argument("run_ids", nargs=-1, shell_complete=complete_run_ids)
    label = click.option(
        "--label",
        "labels",
        multiple=True,
        metavar="NAME=VALUE",
        shell_complete=complete_labels,
        help="All open runs with this label (with all that are given).",
    )
    queue = click.option("--queue", shell_complete=complete_queues, help="All open runs of this queue.")
    return ids(label(queue(command)))


def select_ids(
    models: ReadModels, run_ids: tuple[str, ...], labels: tuple[str, ...], queue: str | None
) -> list[str]:
    """The full ids of the named runs, and of open runs by label and queue.

    Raises CommandError.
    """
    if not run_ids and not labels and queue is None:
        raise CommandError("Name runs, or select them with --label or --queue.", ExitCode.USAGE)
    ids = resolve_ids(models, run_ids)
    if labels or queue is not None:
        wanted = RunFilter(OPEN_STATUSES, queue=queue, labels=dict(map(parse_pair, labels)))
        ids += models.ids(wanted)
    return list(dict.fromkeys(ids))


def listed_json(run: Mapping[str, Json]) -> Document:
    return {"_id": run.get("_id"), **dict.fromkeys(_LISTED_FIELDS), **run}


def detail_json(run: Mapping[str, Json]) -> Document:
    return {"_id": run.get("_id"), **dict.fromkeys(_DETAIL_FIELDS), **run}


def current_user() -> str:
    return os.environ.get("USER") or os.environ.get("LOGNAME") or f"uid {os.getuid()}"
