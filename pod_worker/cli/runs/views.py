"""Commands that read single runs and counts: `runs show`, `watch`, `why`, `stats`."""

from __future__ import annotations

import click

from pod_worker.cli.completion import run_id_argument
from pod_worker.cli.composition import open_store
from pod_worker.cli.options import json_option
from pod_worker.cli.output import STATUS_STYLE, print_json, print_line, print_table, say, span
from pod_worker.cli.runs.lookup import resolve_run, runs_selection, select_ids
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
@runs_selection
@json_option
def watch(run_ids: tuple[str, ...], labels: tuple[str, ...], queue: str | None, as_json: bool) -> int:
    """Follow runs live until they have ended.

    By id, or all open ones with a label or queue.

    Exit code 0 when all completed, 1 when one failed or was canceled. Ctrl-C ends the command, not the runs.
    """
    from pod_worker.cli.runs.watch import watch_runs

    store = open_store()
    ids = select_ids(ReadModels(store.database), run_ids, labels, queue)
    if not ids:
        say("no open run matches")
    return watch_runs(store, ids, as_json=as_json)


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
