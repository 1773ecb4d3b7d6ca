"""`pod-worker runs list`: runs by state, name, label, queue and time, in pages."""

from __future__ import annotations

import sys

import click

from pod_worker.cli.completion import (
    complete_names,
    complete_pipelines,
    complete_queues,
    complete_statuses,
    label_option,
)
from pod_worker.cli.composition import open_store
from pod_worker.cli.document_values import as_datetime, as_mapping, as_number, as_text
from pod_worker.cli.exit_codes import CommandError, ExitCode
from pod_worker.cli.options import json_option, limit_option, parse_pair, parse_statuses, parse_time, time_option
from pod_worker.cli.output import STATUS_STYLE, age, is_wide, print_json, print_json_line, print_table, say
from pod_worker.cli.runs.duration import took
from pod_worker.cli.runs.lookup import listed_json
from pod_worker.core.stage import stage_title
from pod_worker.store.mongo import Document
from pod_worker.store.views.read_models import (
    TOTAL_LIMIT,
    InvalidCursorError,
    ReadModels,
    RunFilter,
    RunOrder,
    RunPage,
)

ORDERS = {
    "newest": RunOrder(),
    "oldest": RunOrder(is_descending=False),
    "priority": RunOrder("priority"),
    "name": RunOrder("name", is_descending=False),
    "status": RunOrder("status", is_descending=False),
    "queue": RunOrder("queue", is_descending=False),
}


@click.command("list")
@click.option(
    "--status",
    "words",
    multiple=True,
    metavar="STATUS",
    shell_complete=complete_statuses,
    help="Only this status; repeat it or use commas.",
)
@click.option(
    "--name",
    shell_complete=complete_names,
    metavar="PATTERN",
    help="Only runs of this name; * stands for any text, ? for one character.",
)
@click.option("--pipeline", shell_complete=complete_pipelines, help="Only this pipeline.")
@click.option("--queue", shell_complete=complete_queues, help="Only this queue.")
@label_option("Only runs with this label; repeat it for several.")
@time_option("--since", "Only runs created since then")
@click.option("--sort", type=click.Choice(list(ORDERS)), default="newest", show_default=True, help="The order.")
@limit_option("At most N runs.")
@click.option("--page", type=click.IntRange(1, 10_000), metavar="N", help="The Nth page of --limit runs.")
@click.option("--after", "cursor", metavar="CURSOR", help="Continue behind the page that named this cursor.")
@click.option("--all", "with_hidden", is_flag=True, help="Hidden runs too.")
@json_option
@click.option("--json-lines", is_flag=True, help="Print one JSON object per run and line.")
def list_runs(
    words: tuple[str, ...],
    name: str | None,
    pipeline: str | None,
    queue: str | None,
    labels: tuple[str, ...],
    since: str | None,
    sort: str,
    limit: int,
    page: int | None,
    cursor: str | None,
    with_hidden: bool,
    as_json: bool,
    json_lines: bool,
) -> None:
    """List runs, newest first.

    A page that --after continues stays the same while other runs are queued; the numbers of --page move on.
    """
    wanted = RunFilter(
        statuses=parse_statuses(words),
        pipeline=pipeline,
        with_hidden=with_hidden,
        queue=queue,
        labels=dict(map(parse_pair, labels)),
        since=parse_time(since),
        name=name,
    )
    if cursor is not None and (page is not None or sort != "newest"):
        raise CommandError("--after needs the default order and no --page. Drop the others.", ExitCode.USAGE)
    models = ReadModels(open_store().database)
    try:
        found = models.runs(wanted, limit, page or 1, cursor, ORDERS[sort])
    except InvalidCursorError as error:
        raise CommandError(str(error), ExitCode.USAGE) from None
    if json_lines:
        for run in found.items:
            print_json_line(listed_json(run))
    elif as_json:
        print_json([listed_json(run) for run in found.items])
    else:
        _print_rows(found)
    if not found.items and not (as_json or json_lines):
        is_filtered = wanted != RunFilter(with_hidden=with_hidden) or page is not None or cursor is not None
        say("no run matches" if is_filtered else "no runs yet. Queue one: pod-worker runs submit synthetic")
    sys.stdout.flush()
    if found.next_cursor:
        _say_rest(found, limit, page, sort)


def _say_rest(found: RunPage, limit: int, page: int | None, sort: str) -> None:
    """How many runs the list has, and how to see the next ones."""
    shown = f"{found.total}" if found.total < TOTAL_LIMIT else f"more than {TOTAL_LIMIT}"
    with_cursor = sort == "newest" and page is None
    following = f"--after {found.next_cursor}" if with_cursor else f"--page {(page or 1) + 1}"
    say(f"{len(found.items)} of {shown} runs. The next ones: {following}" + (
        f" (or --limit {min(limit * 5, 1000)})" if limit < 1000 else ""
    ))  # fmt: skip


def _print_rows(found: RunPage) -> None:
    columns = ["id", "pipeline", "status", "name", "stage", "progress", "created", "took", "queue", "labels"]
    rows = [_row(run) for run in found.items]
    # A terminal has no space for columns without content.
    is_named = is_wide() or any(row[3] != "-" for row in rows)
    kept = [n for n, each in enumerate(columns) if is_wide() or each not in ("queue", "labels")]
    kept = [n for n in kept if is_named or columns[n] != "name"]
    print_table(
        [columns[n] for n in kept],
        [[row[n] for n in kept] for row in rows],
        {"status": STATUS_STYLE},
        cut=("name",),
    )


def _row(run: Document) -> list[str]:
    stage = as_mapping(run.get("currentStage"))
    progress = as_number(stage.get("progress"))
    created = as_datetime(run.get("createdAt"))
    return [
        str(run["_id"]),
        str(run.get("pipeline", "-")),
        str(run.get("status", "-")),
        as_text(run.get("name")) or "-",
        stage_title(as_text(stage.get("name")) or "-"),
        "-" if progress is None else f"{min(max(progress, 0), 1):.0%}",
        f"{age(created)} ago" if created else "-",
        took(run),
        str(run.get("queue", "-")),
        " ".join(f"{name}={value}" for name, value in as_mapping(run.get("labels")).items()) or "-",
    ]
