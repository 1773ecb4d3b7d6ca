"""`runs cost`: what the language models of a run cost, by operation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import click

from pod_worker.cli.completion import run_id_argument
from pod_worker.cli.composition import open_store
from pod_worker.cli.document_values import as_mapping, as_number
from pod_worker.cli.options import json_option
from pod_worker.cli.output import print_json, print_table, say
from pod_worker.cli.runs.lookup import resolve_run
from pod_worker.core.run import Json
from pod_worker.store.mongo import Document
from pod_worker.store.views.read_models import ReadModels

COLUMNS = ["operation", "calls", "from cache", "tokens in", "cached", "tokens out", "seconds", "USD"]
NUMBERS = ("calls", "from_cache", "input_tokens", "cached_tokens", "output_tokens")


@click.command()
@run_id_argument
@json_option
def cost(run_id: str, as_json: bool) -> None:
    """Show what a run's language models cost, by operation.

    The sums are those of the last copy of the run's ledger, a few minutes old at most while the run works.
    """
    run = resolve_run(ReadModels(open_store().database), run_id)
    spent = latest_cost(run)
    if as_json:
        print_json(spent)
        return
    if not spent:
        say("this run has asked no language model yet")
        return
    print_table(COLUMNS, [*_rows(spent), _total(spent)])
    if unpriced := as_number(spent.get("unpriced_calls")):
        say(f"{unpriced:.0f} calls have no known price and are not in the sum of dollars")


def latest_cost(run: Document) -> Mapping[str, Json]:
    """The largest sum that any stage saved: sums only grow, also over attempts."""
    states = [as_mapping(as_mapping(saved).get("state")) for saved in as_mapping(run.get("checkpoints")).values()]
    costs = [as_mapping(state.get("cost")) for state in states]
    return max(costs, key=lambda each: as_number(each.get("calls")) or 0, default={})


def _rows(spent: Mapping[str, Json]) -> Iterator[list[str]]:
    for name, operation in as_mapping(spent.get("operations")).items():
        found = as_mapping(operation)
        yield [
            str(name),
            *(f"{as_number(found.get(column)) or 0:,.0f}" for column in NUMBERS),
            f"{as_number(found.get('seconds')) or 0:,.1f}",
            f"{as_number(found.get('usd')) or 0:.4f}",
        ]


def _total(spent: Mapping[str, Json]) -> list[str]:
    operations = [as_mapping(each) for each in as_mapping(spent.get("operations")).values()]
    sums = [sum(as_number(each.get(column)) or 0 for each in operations) for column in (*NUMBERS, "seconds")]
    *counts, seconds = sums
    return [
        "together",
        *(f"{count:,.0f}" for count in counts),
        f"{seconds:,.1f}",
        f"{as_number(spent.get('usd')) or 0:.4f}",
    ]
