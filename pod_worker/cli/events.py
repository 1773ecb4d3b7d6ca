"""`pod-worker events …`: follow the event log, rebuild views from it, look at refused lines."""

from __future__ import annotations

import time

import click

from pod_worker.cli.composition import open_store
from pod_worker.cli.output import clock_time, print_json, print_table, say
from pod_worker.store.events.reader import EventFilter, EventReader
from pod_worker.store.mongo import Document


@click.group()
def events() -> None:
    """Follow, rebuild views from, and see refused events."""


@events.command()
@click.argument("run_id")
@click.option("--follow", "-f", is_flag=True, help="Wait for more.")
@click.option("--type", "types", multiple=True, help="Only these event types.")
@click.option("--tail", type=click.IntRange(1, 1000), default=20, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per event.")
def tail(run_id: str, follow: bool, types: tuple[str, ...], tail: int, as_json: bool) -> None:
    """The last events of a run."""
    pages, wanted = EventReader(open_store().database), EventFilter(types)
    items = pages.read_page(run_id, wanted, tail).items[::-1]
    position = 0
    while True:
        for event in items:
            _print(event, as_json)
            position = event["position"]
        if not follow:
            return
        time.sleep(0.0 if items else 0.5)
        items = pages.read_page(run_id, wanted, 500, position, newest_first=False).items


def _print(event: Document, as_json: bool) -> None:
    if as_json:
        print_json(event)
        return
    data = {k: v for k, v in (event.get("data") or {}).items() if k != "run_id"}
    gist = " ".join(f"{name}={value}" for name, value in data.items())[:160].replace("\n", " ")
    click.echo(
        f"{clock_time(event.get('time'))}  {event.get('attempt')}/{event.get('seq')}  {event.get('type')}  {gist}"
    )


@events.command()
@click.argument("run_id", required=False)
@click.option("--all", "every", is_flag=True, help="All runs.")
def rebuild(run_id: str | None, every: bool) -> None:
    """Throw a run's views away and make them again from its events."""
    from pod_worker.control.events.replay import rebuild as rebuild_views
    from pod_worker.store.events.event_log import EventLog

    if bool(run_id) == every:
        raise click.UsageError("name a run, or say --all")
    database = open_store().database
    run_ids = EventLog(database).run_ids() if every else iter([str(run_id)])
    count = 0
    for each in run_ids:
        rebuild_views(database, each)
        count += 1
    say(f"rebuilt the views of {count} run(s)")


@events.command()
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
def dead(limit: int, as_json: bool) -> None:
    """Lines that ingest refused, and why."""
    found = EventReader(open_store().database).dead_letters(limit)
    if as_json:
        print_json(found)
        return
    rows = [
        [clock_time(d.get("receivedAt")), str(d.get("code", "-")), str(d.get("error", "-"))[:160]] for d in found
    ]
    print_table(["received", "code", "reason"], rows)
