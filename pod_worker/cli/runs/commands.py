"""`pod-worker runs …`: the group of commands about runs."""

from __future__ import annotations

import click

from pod_worker.cli.runs import actions, changes, cost, listing, logs, prune, submit, views
from pod_worker.cli.runs.search import replay, tree


@click.group()
def runs() -> None:
    """Submit, list, show, follow and manage runs."""


for command in (
    submit.submit,
    changes.clone,
    changes.set_values,
    listing.list_runs,
    views.show,
    logs.logs,
    views.watch,
    views.why,
    tree.tree,
    cost.cost,
    replay.replay,
    actions.cancel,
    actions.reset,
    actions.retry_stage,
    views.stats,
    prune.prune,
):
    runs.add_command(command)
