"""Commands that read single runs and counts: `runs show`, `watch`, `why`, `stats`."""

from __future__ import annotations

import click

from pod_worker.cli.completion import run_id_argument
from pod_worker.cli.composition import open_store
from pod_worker.cli.exit_codes import ExitCode
from pod_worker.cli.options import json_option
from pod_worker.cli.output import STATUS_STYLE, print_json, print_line, print_table, say, span
from pod_worker.cli.runs.lookup import OPEN_STATUSES, resolve_run
from pod_worker.cli.runs.selection import RunSelection, runs_selection
from pod_worker.store.queue.stats import QueueStatsReader
from pod_worker.store.views.read_models import ReadModels


@click.command()
@run_id_argument
@json_option
def show(run_id: str, as_json: bool) -> None:
    """Show everything about one run.

    Status, parameters, stages, artifacts, the last events, and the address of its page.
    """
    from pod_worker.cli.runs.detail import print_run, run_json

    store = open_store()
    run = resolve_run(ReadModels(store.database), run_id)
    if as_json:
        print_json(run_json(store, run))
    else:
        print_run(store, run)


@click.command()
@runs_selection("open", OPEN_STATUSES)
@json_option
def watch(selection: RunSelection, as_json: bool) -> int:
    """Follow runs live until they have ended.

    By id or name, or all open ones with a label, a queue or a status.

    Exit code 0 when all completed, 1 when one failed or was canceled. Ctrl-C ends the command, not the runs.
    """
    from pod_worker.cli.runs.watch import watch_runs

    store = open_store()
    found = selection.find(ReadModels(store.database))
    for message in found.missing.values():
        say(message)
    if not found.ids:
        say("no open run matches")
    code = watch_runs(store, found.ids, as_json=as_json)
    return ExitCode.FAILED if found.missing and code == ExitCode.OK else code


@click.command()
@run_id_argument
@json_option
def why(run_id: str, as_json: bool) -> None:
    """Explain the state of a run and what to do."""
    from pod_worker.cli.runs.why import explain

    store = open_store()
    run = resolve_run(ReadModels(store.database), run_id)
    lines = explain(store, run)
    if as_json:
        print_json({"id": run["_id"], "status": run.get("status"), "why": lines})
    else:
        print_line("\n".join(lines))


@click.command()
@json_option
def stats(as_json: bool) -> None:
    """Count runs by status and queue."""
    found = QueueStatsReader(open_store().database).read()
    if as_json:
        print_json(
            {
                "byStatus": found.by_status,
                "byQueue": found.by_queue,
                "oldestQueuedSeconds": found.oldest_queued_seconds,
                "leasesLive": found.leases_live,
            }
        )
        return
    rows = [
        [queue, status, str(count), span(found.oldest_queued_seconds[queue])]
        if status == "QUEUED" and queue in found.oldest_queued_seconds
        else [queue, status, str(count), "-"]
        for queue, counts in sorted(found.by_queue.items())
        for status, count in sorted(counts.items())
    ]
    print_table(["queue", "status", "runs", "longest wait"], rows, {"status": STATUS_STYLE})
    if not rows:
        say("no runs yet")
