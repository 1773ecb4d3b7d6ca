"""`runs clone` and `runs set`: copies of runs with changes, and changes of runs."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import click

from pod_worker.cli.completion import (
    complete_names,
    complete_queues,
    complete_run_ids,
    label_option,
    run_id_argument,
)
from pod_worker.cli.composition import open_store
from pod_worker.cli.exit_codes import CommandError, ExitCode
from pod_worker.cli.options import Int64, json_option, parse_pair
from pod_worker.cli.runs.actions import apply_to_each, print_results
from pod_worker.cli.runs.lookup import current_user, resolve_run
from pod_worker.cli.runs.parameters import param_options, read_params, set_paths
from pod_worker.cli.runs.selection import RunSelection
from pod_worker.cli.runs.submit import enqueue, warn_of_unserved_queue
from pod_worker.core.run import InvalidRunError, Run
from pod_worker.store import run_secrets
from pod_worker.store.queue.operations import ActionResult
from pod_worker.store.queue.run_document import run_from_document
from pod_worker.store.queue.run_edits import RunEdit, check_edit
from pod_worker.store.queue.run_request import RunRequest
from pod_worker.store.views.read_models import ReadModels

# What belongs to one run alone; every other field that a request and a run share is copied.
_OWN = {"id", "params", "unique_key"}
_COPIED = [each.name for each in fields(RunRequest) if each.name in {f.name for f in fields(Run)} - _OWN]


@click.command()
@run_id_argument
@param_options
@click.option(
    "--set",
    "paths",
    multiple=True,
    metavar="PATH=VALUE",
    help="As -p, also inside a parameter: --set envs.LR=0.1",
)
@click.option("--name", shell_complete=complete_names, metavar="NAME", help="Another name than that of the run.")
@click.option("--queue", shell_complete=complete_queues, help="Another queue than that of the run.")
@click.option("--priority", type=Int64(), metavar="N", help="Another priority than that of the run.")
@label_option("A further label, or another value.")
@click.option("--watch", "then_watch", is_flag=True, help="Follow the new run until it has ended.")
@json_option
def clone(
    run_id: str,
    pairs: tuple[str, ...],
    params_file: str | None,
    paths: tuple[str, ...],
    name: str | None,
    queue: str | None,
    priority: int | None,
    labels: tuple[str, ...],
    then_watch: bool,
    as_json: bool,
) -> int:
    """Queue a copy of a run, with changed parameters on request.

    The copy has the run's name, pipeline, parameters, secrets, labels, queue, priority, requirements, time limits
    and retry rules. It has no unique key and no results.
    """
    from ulid import ULID

    store = open_store(with_indexes=True)
    run = run_from_document(resolve_run(ReadModels(store.database), run_id))
    warn_of_unserved_queue(queue)
    given = set_paths(run.pipeline, run.params, paths)
    values: dict[str, Any] = {each: getattr(run, each) for each in _COPIED}
    values |= {
        "queue": queue or run.queue,
        "priority": run.priority if priority is None else priority,
        "labels": run.labels | dict(map(parse_pair, labels)),
    }
    if name is not None:
        values["name"] = name or None
    params = read_params(run.pipeline, given, pairs, params_file)
    sealed = run_secrets.of_run(store.database, run.id)
    request = RunRequest(id=str(ULID()), params=params, sealed_secrets=sealed, **values)
    return enqueue(store, [request], then_watch=then_watch, as_json=as_json)


@click.command("set")
@click.argument("run_ids", metavar="RUN...", nargs=-1, required=True, shell_complete=complete_run_ids)
@click.option("--name", metavar="NAME", help="The name; an empty one removes it.")
@click.option("--priority", type=Int64(), metavar="N", help="Runs with a higher number are claimed first.")
@click.option("--queue", shell_complete=complete_queues, help="Move waiting runs to this queue.")
@label_option("Add a label or change its value; repeat it for several.")
@click.option("--remove-label", "removed", multiple=True, metavar="NAME", help="Remove a label.")
@json_option
def set_values(
    run_ids: tuple[str, ...],
    name: str | None,
    priority: int | None,
    queue: str | None,
    labels: tuple[str, ...],
    removed: tuple[str, ...],
    as_json: bool,
) -> int:
    """Change the name, labels, priority or queue of runs.

    Name and labels change at any time; priority and queue only while a run waits in a queue.
    """
    edit = RunEdit(name, queue, priority, dict(map(parse_pair, labels)), removed)
    if edit == RunEdit():
        raise CommandError(
            "Nothing to change. Give --name, --priority, --queue, --label or --remove-label.", ExitCode.USAGE
        )
    try:
        check_edit(edit)
    except InvalidRunError as error:
        raise CommandError(str(error), ExitCode.USAGE) from None
    warn_of_unserved_queue(queue)
    store = open_store()
    found = RunSelection(run_ids).find(ReadModels(store.database))
    edits = store.edits()
    outcomes = apply_to_each(found.ids, lambda run_id: edits.apply(run_id, edit, by=current_user()))
    texts = {
        ActionResult.DONE: lambda status: f"changed ({status})",
        ActionResult.LIVE: lambda status: f"{status}: priority and queue change only while a run is QUEUED",
    }
    return print_results(store, found, outcomes, as_json, texts)
