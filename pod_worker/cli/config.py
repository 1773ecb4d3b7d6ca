"""`pod-worker config show`: what is set, and where it came from. A secret shows only that it is set."""

from __future__ import annotations

import click

from pod_worker.cli.output import print_json, print_table
from pod_worker.config import load_with_origins


@click.group()
def config() -> None:
    """The settings and where each came from."""


@config.command()
@click.option("--origin", is_flag=True, help="Also show where each value came from.")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
def show(origin: bool, as_json: bool) -> None:
    """Every setting, secrets masked."""
    _, origins = load_with_origins()
    if as_json:
        print_json([{"name": each.name, "value": each.shown, "origin": each.source} for each in origins])
        return
    columns = ["setting", "value", "origin"] if origin else ["setting", "value"]
    rows = [[each.name, each.shown or "-", each.source][: len(columns)] for each in origins]
    print_table(columns, rows, {"origin": {"default": "dim"}})
