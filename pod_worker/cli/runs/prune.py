"""`pod-worker runs prune`: delete old ended runs with all that is theirs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from pod_worker.cli.composition import StoreSession, open_store
from pod_worker.cli.exit_codes import CommandError, ExitCode
from pod_worker.cli.options import confirm, json_option, parse_duration, yes_option
from pod_worker.cli.output import print_json, say
from pod_worker.cli.runs.lookup import TERMINAL_STATUSES
from pod_worker.core.run import Json

if TYPE_CHECKING:
    from pod_worker.artifacts.object_store import ObjectStore


@click.command()
@click.option(
    "--older-than",
    default="30d",
    show_default=True,
    metavar="DURATION",
    help="Only runs that ended longer ago than this: 12h, 30d.",
)
@click.option(
    "--status",
    multiple=True,
    type=click.Choice(sorted(TERMINAL_STATUSES), case_sensitive=False),
    help="Only this status; repeat it for several. [default: all ended runs]",
)
@click.option("--keep-objects", is_flag=True, help="Leave the artifacts in the object store.")
@yes_option
@json_option
def prune(older_than: str, status: tuple[str, ...], keep_objects: bool, yes: bool, as_json: bool) -> int:
    """Delete old ended runs.

    Their events, metrics and artifacts are deleted too. Asks first; --yes does not.
    """
    from pod_worker.store.pruning import RunPruner

    store = open_store()
    pruner = RunPruner(store.database)
    before = datetime.now(UTC) - parse_duration(older_than)
    statuses = list(status) or sorted(TERMINAL_STATUSES)
    ids, orphans = pruner.find(statuses, before), pruner.orphans(before)
    objects = None if keep_objects else _objects(store, [*ids, *orphans])
    if ids or orphans:
        extra = f" Also delete the rows of {len(orphans)} runs that no longer exist." if orphans else ""
        confirm(f"Delete {len(ids)} runs and everything that belongs to them?{extra}", yes)
    delete_object = objects.delete if objects else None
    pruned = pruner.delete(ids, statuses, before, delete_object)
    rows = pruner.delete_orphans(orphans, delete_object)
    swept = _sweep(store, objects) if objects else 0
    documents = pruned.documents + rows.documents
    deleted = pruned.objects + rows.objects + swept
    if as_json:
        counts = {"runs": pruned.runs, "documents": documents, "deletedObjects": deleted}
        print_json(counts | {"objects": not keep_objects})
    else:
        kept = "; their artifacts stay in the object store" if keep_objects else ""
        say(f"deleted {pruned.runs} runs, {documents} documents, {deleted} objects{kept}")
    return ExitCode.OK


def _sweep(store: StoreSession, objects: ObjectStore) -> int:
    """Delete unfinished uploads and superseded checkpoints; returns how many objects."""
    from pod_worker.artifacts.object_store import ObjectStoreError
    from pod_worker.control.artifacts.sweep import sweep_checkpoints, sweep_uploads

    try:
        uploads = sweep_uploads(store.database, objects, datetime.now(UTC)).objects
        return uploads + sweep_checkpoints(store.database, objects)
    except ObjectStoreError as error:
        say(f"unfinished uploads and superseded checkpoints were not all deleted: {error}")
        return 0


def _objects(store: StoreSession, run_ids: Sequence[Json]) -> ObjectStore | None:
    """The object store; None when none is configured and the runs have no artifacts.

    Raises CommandError.
    """
    from pod_worker.cli.object_storage import object_store
    from pod_worker.store import artifact_registry

    if store.settings.minio_endpoint:
        return object_store(store.settings)
    if any(artifact_registry.of_run(store.database, run_id, 1) for run_id in run_ids):
        raise CommandError(
            "MINIO_ENDPOINT is not set, so the artifacts of these runs would stay in the object store and no row "
            "would name them. Set MINIO_ENDPOINT, MINIO_ACCESS_KEY and MINIO_SECRET_KEY, or pass --keep-objects.",
            ExitCode.USAGE,
        )
    return None
