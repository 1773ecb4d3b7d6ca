"""`pod-worker runs logs`: a run's log lines, on request followed to its end."""

from __future__ import annotations

import click

from pod_worker.cli.completion import run_id_argument
from pod_worker.cli.composition import open_store
from pod_worker.cli.connection import until_reconnected
from pod_worker.cli.document_values import as_datetime, as_mapping
from pod_worker.cli.options import json_option, parse_time, time_option
from pod_worker.cli.output import clock_time, print_json_line, print_line, say
from pod_worker.cli.runs.lookup import resolve_run
from pod_worker.store.events.reader import LOG_TYPE, EventFilter, EventReader
from pod_worker.store.events.tail import EventTail
from pod_worker.store.mongo import Document, Mongo
from pod_worker.store.views.read_models import ReadModels
from pod_worker.submission.run_log import follow_pages, log_tail

COLORS = {"error": "red", "warn": "yellow", "warning": "yellow"}


@click.command()
@run_id_argument
@click.option("--follow", "-f", is_flag=True, help="Wait for more lines until the run has ended.")
@time_option("--since", "Only lines from then on")
@click.option(
    "--tail",
    type=click.IntRange(1, 1000),
    default=100,
    show_default=True,
    metavar="N",
    help="Begin with the last N lines.",
)
@click.option("--level", type=click.Choice(["debug", "info", "warn", "error"]), help="This level and above.")
@json_option
def logs(run_id: str, follow: bool, since: str | None, tail: int, level: str | None, as_json: bool) -> None:
    """Print the log lines of a run.

    With --follow the command survives an outage of MongoDB. Ctrl-C ends the command, not the run.
    """
    database = open_store().database
    models = ReadModels(database)
    run_id = str(resolve_run(models, run_id)["_id"])
    reader = EventReader(database)
    wanted = EventFilter((LOG_TYPE,), level, parse_time(since))
    if not follow:
        found = reader.read_page(run_id, wanted, tail).items[::-1]
        _print_logs(found, as_json)
        if not found and not as_json:
            say("no log lines match")
        return
    for found in follow_pages(models, EventTail(reader, run_id, wanted, tail), run_id, until_reconnected):
        _print_logs(found, as_json)


def follow_log(database: Mongo, run_id: str, *, as_json: bool) -> None:
    """Print the log of a run from its beginning until it has ended."""
    for found in follow_pages(ReadModels(database), log_tail(database, run_id), run_id, until_reconnected):
        _print_logs(found, as_json)


def _print_logs(items: list[Document], as_json: bool) -> None:
    for event in items:
        data = as_mapping(event.get("data"))
        if as_json:
            print_json_line({"time": event.get("time"), "attempt": event.get("attempt"), **data})
            continue
        level = str(data.get("level", "info"))
        at = clock_time(as_datetime(event.get("time")))
        print_line(f"{at} {level[:5]:5} {data.get('message', '')}", COLORS.get(level))
