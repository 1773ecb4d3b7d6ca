"""`pod-worker runs prune`: delete old ended runs with everything that belongs to them."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from pod_worker.cli.composition import open_store
from pod_worker.cli.exit_codes import ExitCode
from pod_worker.cli.options import confirm, json_option, parse_duration, yes_option
from pod_worker.cli.output import print_json, say
from pod_worker.cli.runs.lookup import TERMINAL_STATUSES


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
@yes_option
@json_option
def prune(older_than: str, status: tuple[str, ...], yes: bool, as_json: bool) -> int:
    """Delete old ended runs.

    Their events, metrics and artifacts are deleted too. Asks first; --yes does not.
    """
    from pod_worker.cli.control import object_store
    from pod_worker.store.pruning import RunPruner

    store = open_store()
    pruner = RunPruner(store.database)
    before = datetime.now(UTC) - parse_duration(older_than)
    statuses = list(status) or sorted(TERMINAL_STATUSES)
    ids, orphans = pruner.find(statuses, before), pruner.orphans(before)
    if ids or orphans:
        extra = f" Also delete the rows of {len(orphans)} runs that no longer exist." if orphans else ""
        confirm(f"Delete {len(ids)} runs and everything that belongs to them?{extra}", yes)
    objects = object_store(store.settings) if ids or orphans else None
    delete_object = objects.delete if objects else None
    pruned = pruner.delete(ids, statuses, before, delete_object)
    rows = pruner.delete_orphans(orphans, delete_object)
    documents = pruned.documents + rows.documents
    if as_json:
        print_json({"runs": pruned.runs, "documents": documents, "objects": objects is not None})
    else:
        kept = "" if objects or not ids else "; their artifacts stay in the object store"
        say(f"deleted {pruned.runs} runs, {documents} documents{kept}")
    return ExitCode.OK
