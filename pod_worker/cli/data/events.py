"""`pod-worker events …`: follow the log, rebuild views, list rejected lines."""

from __future__ import annotations

import time

import click

from pod_worker.cli.completion import complete_run_ids, run_id_argument
from pod_worker.cli.composition import open_store
from pod_worker.cli.connection import until_reconnected
from pod_worker.cli.document_values import as_datetime
from pod_worker.cli.exit_codes import CommandError, ExitCode
from pod_worker.cli.options import json_option, limit_option
from pod_worker.cli.output import clock_time, print_json, print_json_line, print_line, print_table, say
from pod_worker.cli.runs.detail import event_summary
from pod_worker.cli.runs.lookup import resolve_run
from pod_worker.core.terminal_text import one_line
from pod_worker.store.events.reader import EventFilter, EventReader
from pod_worker.store.events.tail import EventTail
from pod_worker.store.mongo import Document, Mongo
from pod_worker.store.views.read_models import ReadModels

POLL_SECONDS = 0.5


@click.group()
def events() -> None:
    """Follow events, rebuild views, list rejected events."""


@events.command()
@run_id_argument
@click.option("--follow", "-f", is_flag=True, help="Wait for more events until Ctrl-C.")
@click.option("--type", "types", multiple=True, help="Only this event type; repeat it for several.")
@click.option(
    "--tail",
    type=click.IntRange(1, 1000),
    default=20,
    show_default=True,
    metavar="N",
    help="Begin with the last N events.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per event.")
def tail(run_id: str, follow: bool, types: tuple[str, ...], tail: int, as_json: bool) -> None:
    """Print the last events of a run."""
    database = open_store().database
    run_id = _known_id(database, run_id)
    events = EventTail(EventReader(database), run_id, EventFilter(types), tail)
    found = events.read()
    if not found and not as_json:
        say("no events match")
    while True:
        for event in found:
            _print(event, as_json)
        if not follow:
            return
        time.sleep(0.0 if found else POLL_SECONDS)
        found = until_reconnected(events.read)


def _known_id(database: Mongo, run_id: str) -> str:
    """A run's full id; events may also belong to a run that the queue does not have."""
    if EventReader(database).last_position(run_id):
        return run_id
    return str(resolve_run(ReadModels(database), run_id)["_id"])


def _print(event: Document, as_json: bool) -> None:
    if as_json:
        print_json_line(event)
        return
    at = clock_time(as_datetime(event.get("time")))
    number = f"attempt {event.get('attempt')} #{event.get('seq')}"
    print_line(f"{at}  {number}  {event.get('type')}  {one_line(event_summary(event, 160))}")


@events.command()
@click.argument("run_id", required=False, shell_complete=complete_run_ids)
@click.option("--all", "every", is_flag=True, help="All runs.")
def rebuild(run_id: str | None, every: bool) -> None:
    """Build the views of a run again from its events."""
    from pod_worker.control.events.replay import rebuild as rebuild_views
    from pod_worker.store.events.event_log import EventLog

    if bool(run_id) == every:
        raise CommandError("name one run, or pass --all", ExitCode.USAGE)
    database = open_store().database
    count = 0
    for each in EventLog(database).run_ids() if every else [_known_id(database, str(run_id))]:
        rebuild_views(database, each)
        count += 1
    say(f"rebuilt the views of {count} run{'s' if count != 1 else ''}")


@events.command()
@limit_option("At most N lines.")
@json_option
def dead(limit: int, as_json: bool) -> None:
    """List event lines that ingest rejected, and why."""
    found = EventReader(open_store().database).dead_letters(limit)
    if as_json:
        print_json(found)
        return
    rows = [
        [clock_time(as_datetime(d.get("receivedAt"))), str(d.get("code", "-")), str(d.get("error", "-"))[:160]]
        for d in found
    ]
    print_table(["received", "code", "reason"], rows)
    if not rows:
        say("no rejected events")
