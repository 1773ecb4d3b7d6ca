"""`pod-worker config show`: each setting and its origin. Of a secret only whether it is set."""

from __future__ import annotations

import click

from pod_worker.cli.options import json_option
from pod_worker.cli.output import print_json, print_table
from pod_worker.config import load_with_origins


@click.group()
def config() -> None:
    """Show the settings and the origin of each."""


@config.command()
@click.option("--origin", is_flag=True, help="Also show the origin of each value.")
@json_option
def show(origin: bool, as_json: bool) -> None:
    """Print every setting; secrets are masked."""
    _, origins = load_with_origins()
    if as_json:
        print_json([{"name": each.name, "value": each.shown, "origin": each.source} for each in origins])
        return
    columns = ["setting", "value", "origin"] if origin else ["setting", "value"]
    rows = [[each.name, each.shown or "-", each.source][: len(columns)] for each in origins]
    print_table(columns, rows, {"origin": {"default": "dim"}})
