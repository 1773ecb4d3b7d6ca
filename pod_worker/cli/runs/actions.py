"""Commands that change runs: `runs cancel`, `reset`, `retry-stage`."""

from __future__ import annotations

import time
from collections.abc import Callable

import click

from pod_worker.cli.completion import complete_run_ids, run_id_argument
from pod_worker.cli.composition import StoreSession, open_store
from pod_worker.cli.connection import until_reconnected
from pod_worker.cli.document_values import as_datetime, as_mapping, as_number
from pod_worker.cli.exit_codes import CommandError, ExitCode
from pod_worker.cli.options import confirm, json_option, yes_option
from pod_worker.cli.output import print_json, print_line, say
from pod_worker.cli.runs.lookup import (
    TERMINAL_STATUSES,
    current_user,
    resolve_ids,
    resolve_run,
    runs_selection,
    select_ids,
)
from pod_worker.cli.runs.parameters import param_options, read_params
from pod_worker.core.failure import RunError
from pod_worker.core.run import ACTIVE, Json
from pod_worker.store.mongo import Document, server_time
from pod_worker.store.queue.operations import ActionOutcome, ActionResult
from pod_worker.store.views.read_models import ReadModels

CONFIRM_SECONDS = 120.0
POLL_SECONDS = 0.2
IDS_NAMED = 5


@click.command()
@runs_selection
@click.option("--reason", help="Kept in the run's history.")
@yes_option
@click.option(
    "--wait/--no-wait", default=True, help="Wait until the worker of a running run has confirmed. [default: wait]"
)
@json_option
def cancel(
    run_ids: tuple[str, ...],
    labels: tuple[str, ...],
    queue: str | None,
    reason: str | None,
    yes: bool,
    wait: bool,
    as_json: bool,
) -> int:
    """Cancel runs by id, or all open ones with a label or queue.

    A waiting run ends at once; the worker of a running one stops it and confirms.
    """
    store = open_store()
    ids = select_ids(ReadModels(store.database), run_ids, labels, queue)
    if ids:
        confirm(f"Cancel {_named(ids)}?", yes)
    else:
        say("no open run matches")
    operations = store.operations()
    outcomes = [operations.cancel(run_id, by=current_user(), reason=reason) for run_id in ids]
    for run_id, outcome in zip(ids, outcomes, strict=True):
        if outcome.verdict is ActionResult.REQUESTED and wait:
            _wait_until_ended(store, run_id)
    return _print_results(store, ids, outcomes, as_json)


def _named(ids: list[str]) -> str:
    rest = len(ids) - IDS_NAMED
    return ", ".join(ids[:IDS_NAMED]) + (f" and {rest} more ({len(ids)} runs)" if rest > 0 else "")


def _wait_until_ended(store: StoreSession, run_id: str) -> None:
    say(f"{run_id}: cancellation requested; waiting for its worker …")
    models = ReadModels(store.database)
    end = time.monotonic() + CONFIRM_SECONDS
    while time.monotonic() < end and until_reconnected(lambda: models.status(run_id)) not in TERMINAL_STATUSES:
        time.sleep(POLL_SECONDS)


@click.command()
@click.argument("run_ids", nargs=-1, required=True, shell_complete=complete_run_ids)
@click.option("--force", is_flag=True, help="Also take a run away from a live worker.")
@click.option("--from-scratch", is_flag=True, help="Discard finished stages and checkpoints.")
@param_options
@click.option("--dry-run", is_flag=True, help="Print what would happen and change nothing.")
@json_option
def reset(
    run_ids: tuple[str, ...],
    force: bool,
    from_scratch: bool,
    pairs: tuple[str, ...],
    params_file: str | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Queue ended or stale runs again.

    A failed or canceled run continues after its last finished stage. A completed run starts over, and so does one
    that gets other parameters (--param). The attempt number is raised, so a worker that still has the run can
    write nothing more.
    """
    store = open_store()
    models = ReadModels(store.database)
    ids = resolve_ids(models, run_ids)
    found = [resolve_run(models, run_id) for run_id in ids]
    changed = [_changed_params(run, pairs, params_file) for run in found]
    if dry_run:
        return _print_plans(store, found, force, as_json)
    operations = store.operations()
    outcomes = [
        operations.reset(run_id, by=current_user(), force=force, from_scratch=from_scratch, params=params)
        for run_id, params in zip(ids, changed, strict=True)
    ]
    return _print_results(store, ids, outcomes, as_json)


def _changed_params(run: Document, pairs: tuple[str, ...], file: str | None) -> dict[str, Json] | None:
    """The run's parameters with the changes, checked; None without changes."""
    if not pairs and file is None:
        return None
    return read_params(str(run.get("pipeline")), as_mapping(run.get("params")), pairs, file)


def _print_plans(store: StoreSession, runs: list[Document], force: bool, as_json: bool) -> int:
    """What a reset would do to each run.

    1 when it would refuse one, as the reset itself.
    """
    now = server_time(store.database)
    plans = []
    for run in runs:
        lease_end = as_datetime(run.get("leaseExpiresAt"))
        is_live = run.get("status") in ACTIVE and lease_end is not None and lease_end > now
        result = "live" if is_live and not force else "already" if run.get("status") == "QUEUED" else "done"
        attempt = int(as_number(run.get("attempt")) or 0)
        after = attempt + 1 if result == "done" else attempt
        plans.append({"id": run["_id"], "result": result, "status": run.get("status"), "attempt": after})
        if not as_json:
            change = {
                "done": f"{run.get('status')} → QUEUED, attempt {attempt} → {after}",
                "live": f"refused: a live worker has it ({run.get('status')}); use --force",
                "already": "QUEUED already; nothing to do",
            }
            print_line(f"{run['_id']}  {change[result]}")
    if as_json:
        print_json(plans)
    return ExitCode.FAILED if any(plan["result"] == "live" for plan in plans) else ExitCode.OK


@click.command("retry-stage")
@run_id_argument
@click.argument("stage")
@json_option
def retry_stage(run_id: str, stage: str, as_json: bool) -> int:
    """Execute a finished STAGE of an ended run again, and those after it.

    Earlier finished stages are kept.
    """
    store = open_store()
    run = resolve_run(ReadModels(store.database), run_id)
    finished = [name for name, each in as_mapping(run.get("checkpoints")).items() if as_mapping(each).get("done")]
    if stage not in finished:
        names = ", ".join(finished) or "none"
        raise CommandError(
            f"{stage!r} is not a finished stage of this run. Finished are: {names}.", ExitCode.USAGE
        )
    later = _stages_after(stage, run)
    outcome = store.operations().retry_stage(run["_id"], stage, by=current_user(), later=later)
    return _print_results(store, [run["_id"]], [outcome], as_json)


def _stages_after(stage: str, run: Document) -> tuple[str, ...]:
    """Empty for a pipeline or parameters that this version does not know."""
    from pod_worker.pipelines import find_pipeline

    try:
        stages = find_pipeline(str(run.get("pipeline"))).stages(dict(as_mapping(run.get("params"))))
    except RunError:
        return ()
    names = [each.name for each in stages]
    return tuple(names[names.index(stage) + 1 :]) if stage in names else ()


def _print_results(store: StoreSession, ids: list[str], outcomes: list[ActionOutcome], as_json: bool) -> int:
    models, rows = ReadModels(store.database), []
    for run_id, outcome in zip(ids, outcomes, strict=True):
        status = models.status(run_id) or "-"
        # `verdict` is the earlier name of `result`.
        result = outcome.verdict.value
        rows.append({"id": run_id, "result": result, "verdict": result, "status": status})
        if not as_json:
            print_line(f"{run_id}  {_RESULT_TEXTS[outcome.verdict](status)}")
    if as_json:
        print_json(rows)
    results = {outcome.verdict for outcome in outcomes}
    if ActionResult.MISSING in results:
        return ExitCode.NOT_FOUND
    return ExitCode.FAILED if ActionResult.LIVE in results else ExitCode.OK


_RESULT_TEXTS: dict[ActionResult, Callable[[str], str]] = {
    ActionResult.DONE: lambda status: status,
    ActionResult.REQUESTED: lambda status: (
        status if status in TERMINAL_STATUSES else f"{status}: cancellation requested, not confirmed yet"
    ),
    ActionResult.ALREADY: lambda status: f"{status} already; nothing to do",
    ActionResult.LIVE: lambda status: f"{status}: a live worker has it. Wait, cancel it, or use --force.",
    ActionResult.MISSING: lambda _status: "no such run",
}
