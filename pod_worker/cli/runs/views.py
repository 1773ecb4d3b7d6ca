"""Commands that only read: `runs list`, `show`, `watch`, `why` and `stats`."""

from __future__ import annotations

import click

from pod_worker.cli.completion import complete_pipelines, complete_queues, run_id_argument
from pod_worker.cli.composition import open_store
from pod_worker.cli.document_values import as_datetime, as_mapping, as_number, as_text
from pod_worker.cli.exit_codes import CommandError, ExitCode
from pod_worker.cli.options import json_option, limit_option, parse_pair, parse_time, time_option
from pod_worker.cli.output import STATUS_STYLE, age, is_wide, print_json, print_line, print_table, say, span
from pod_worker.cli.runs.duration import took
from pod_worker.cli.runs.lookup import listed_json, resolve_run, runs_selection, select_ids
from pod_worker.core.run import RunStatus
from pod_worker.core.stage import stage_title
from pod_worker.store.mongo import Document
from pod_worker.store.queue.stats import QueueStatsReader
from pod_worker.store.views.read_models import ReadModels, RunFilter

STATUSES = [status.value for status in RunStatus]
TOTAL_LIMIT = 10_000


@click.command("list")
@click.option(
    "--status", "words", multiple=True, metavar="STATUS", help="Only this status; repeat it or use commas."
)
@click.option("--pipeline", shell_complete=complete_pipelines, help="Only this pipeline.")
@click.option("--queue", shell_complete=complete_queues, help="Only this queue.")
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="Only runs with this label.")
@time_option("--since", "Only runs created since then")
@limit_option("At most N runs.")
@click.option("--all", "with_hidden", is_flag=True, help="Hidden runs too.")
@json_option
def list_runs(
    words: tuple[str, ...],
    pipeline: str | None,
    queue: str | None,
    labels: tuple[str, ...],
    since: str | None,
    limit: int,
    with_hidden: bool,
    as_json: bool,
) -> None:
    """List runs, newest first."""
    wanted = RunFilter(
        statuses=_statuses(words),
        pipeline=pipeline,
        with_hidden=with_hidden,
        queue=queue,
        labels=dict(map(parse_pair, labels)),
        since=parse_time(since),
    )
    page = ReadModels(open_store().database).runs(wanted, limit)
    if as_json:
        print_json([listed_json(run) for run in page.items])
        return
    columns = ["id", "pipeline", "status", "stage", "progress", "created", "took", "labels"]
    count = len(columns) if is_wide() else len(columns) - 1
    print_table(columns[:count], [_row(run)[:count] for run in page.items], {"status": STATUS_STYLE})
    if not page.items:
        is_filtered = wanted != RunFilter(with_hidden=with_hidden)
        say("no run matches" if is_filtered else "no runs yet. Queue one: pod-worker runs submit synthetic")
    elif page.next_cursor:
        shown = f"{page.total}" if page.total < TOTAL_LIMIT else f"more than {TOTAL_LIMIT}"
        say(f"{len(page.items)} of {shown} runs; --limit shows more")


def _statuses(words: tuple[str, ...]) -> tuple[str, ...]:
    chosen = [word.strip().upper() for each in words for word in each.split(",") if word.strip()]
    if wrong := [word for word in chosen if word not in STATUSES]:
        raise CommandError(f"{wrong[0]!r} is not a status. There are: {', '.join(STATUSES)}.", ExitCode.USAGE)
    return tuple(chosen)


def _row(run: Document) -> list[str]:
    stage = as_mapping(run.get("currentStage"))
    progress = as_number(stage.get("progress"))
    created = as_datetime(run.get("createdAt"))
    return [
        str(run["_id"]),
        str(run.get("pipeline", "-")),
        str(run.get("status", "-")),
        stage_title(as_text(stage.get("name")) or "-"),
        "-" if progress is None else f"{min(max(progress, 0), 1):.0%}",
        f"{age(created)} ago" if created else "-",
        took(run),
        " ".join(f"{name}={value}" for name, value in as_mapping(run.get("labels")).items()) or "-",
    ]


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
