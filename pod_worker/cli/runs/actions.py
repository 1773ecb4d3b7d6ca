"""Commands that change runs: `runs cancel`, `reset`, `retry-stage`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import click
from pymongo.errors import OperationFailure

from pod_worker.cli.composition import StoreSession, open_store
from pod_worker.cli.connection import until_reconnected
from pod_worker.cli.document_values import as_datetime, as_mapping, as_number
from pod_worker.cli.exit_codes import CommandError, ExitCode
from pod_worker.cli.options import confirm, json_option, yes_option
from pod_worker.cli.output import print_json, print_line, say
from pod_worker.cli.runs.lookup import (
    OPEN_STATUSES,
    TERMINAL_STATUSES,
    current_user,
)
from pod_worker.cli.runs.parameters import param_options, read_params
from pod_worker.cli.runs.selection import RunSelection, SelectedRuns, named, runs_selection
from pod_worker.core.failure import RunError
from pod_worker.core.run import ACTIVE, Json, RunStatus
from pod_worker.store.errors import describe_error
from pod_worker.store.mongo import Document, server_time
from pod_worker.store.queue.operations import ActionOutcome, ActionResult
from pod_worker.store.views.read_models import ReadModels

CONFIRM_SECONDS = 120.0
POLL_SECONDS = 0.2
RESETTABLE = (RunStatus.FAILED.value, RunStatus.CANCELED.value)


@click.command()
@runs_selection("open", OPEN_STATUSES)
@click.option("--reason", help="Kept in the run's history.")
@yes_option
@click.option(
    "--wait/--no-wait", default=True, help="Wait until the worker of a running run has confirmed. [default: wait]"
)
@json_option
def cancel(selection: RunSelection, reason: str | None, yes: bool, wait: bool, as_json: bool) -> int:
    """Cancel runs.

    By id or name, or all open ones with a label, a queue or a status. A waiting run ends at once; the worker of a
    running one stops it and confirms.
    """
    store = open_store()
    found = selection.find(ReadModels(store.database))
    if found.ids:
        confirm(f"Cancel {_counted(found.ids)}: {named(found.ids)}?", yes)
    elif not found.missing:
        say("no open run matches")
    operations = store.operations()
    outcomes = apply_to_each(found.ids, lambda run_id: operations.cancel(run_id, by=current_user(), reason=reason))
    requested = [run_id for run_id, each in outcomes.items() if _is(each, ActionResult.REQUESTED)]
    if requested and wait:
        _wait_until_ended(store, requested)
    return print_results(store, found, outcomes, as_json)


def _counted(ids: Sequence[str]) -> str:
    return "1 run" if len(ids) == 1 else f"{len(ids)} runs"


Outcome = ActionOutcome | OperationFailure | CommandError


def apply_to_each(ids: Sequence[str], act: Callable[[str], ActionOutcome]) -> dict[str, Outcome]:
    """What became of each run; an error of one does not stop the others."""
    outcomes: dict[str, Outcome] = {}
    for run_id in ids:
        try:
            outcomes[run_id] = act(run_id)
        except (OperationFailure, CommandError) as error:
            outcomes[run_id] = error
    return outcomes


def _is(outcome: Outcome, result: ActionResult) -> bool:
    return isinstance(outcome, ActionOutcome) and outcome.verdict is result


def _wait_until_ended(store: StoreSession, ids: list[str]) -> None:
    say(f"{named(ids)}: cancellation requested; waiting for the worker …")
    models = ReadModels(store.database)
    end = time.monotonic() + CONFIRM_SECONDS
    while time.monotonic() < end:
        runs = until_reconnected(lambda: models.runs_by_id(ids))
        if all(run.get("status") in TERMINAL_STATUSES for run in runs.values()):
            return
        time.sleep(POLL_SECONDS)


@click.command()
@runs_selection("failed and canceled", RESETTABLE)
@click.option("--force", is_flag=True, help="Also take a run away from a live worker.")
@click.option("--from-scratch", is_flag=True, help="Discard finished stages and checkpoints.")
@param_options
@click.option("--dry-run", is_flag=True, help="Print what would happen and change nothing.")
@yes_option
@json_option
def reset(
    selection: RunSelection,
    force: bool,
    from_scratch: bool,
    pairs: tuple[str, ...],
    params_file: str | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Queue ended or stale runs again.

    By id or name, or all failed and canceled ones with a label, a queue or a status.

    A failed or canceled run continues after its last finished stage; with --from-scratch it starts at the first
    one. A completed run starts over, and so does one that gets other parameters (--param). The attempt number is
    raised, so a worker that still has the run can write nothing more.
    """
    store = open_store()
    models = ReadModels(store.database)
    found = selection.find(models)
    runs = [run for run_id in found.ids if (run := models.run(run_id)) is not None]
    changed = {str(run["_id"]): _changed_params(run, pairs, params_file) for run in runs}
    if dry_run:
        return max(_print_plans(store, runs, force, as_json), ExitCode.FAILED if found.missing else ExitCode.OK)
    _confirm_filtered(selection, found, "Queue", "again", yes)
    operations = store.operations()
    outcomes = apply_to_each(
        found.ids,
        lambda run_id: operations.reset(
            run_id, by=current_user(), force=force, from_scratch=from_scratch, params=changed.get(run_id)
        ),
    )
    return print_results(store, found, outcomes, as_json)


def _confirm_filtered(selection: RunSelection, found: SelectedRuns, verb: str, rest: str, yes: bool) -> None:
    """Ask where options and not the user's own words have chosen the runs."""
    if not selection.is_by_filter:
        return
    if found.ids:
        confirm(f"{verb} {_counted(found.ids)} {rest}: {named(found.ids)}?", yes)
    elif not found.missing:
        say("no run matches")


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
@runs_selection("failed and canceled", RESETTABLE)
@click.argument("stage")
@yes_option
@json_option
def retry_stage(selection: RunSelection, stage: str, yes: bool, as_json: bool) -> int:
    """Execute a STAGE of ended runs again, and those after it.

    Earlier finished stages are kept.
    """
    store = open_store()
    models, operations = ReadModels(store.database), store.operations()
    found = selection.find(models)
    if len(found.ids) == 1 and not found.missing:
        _with_finished(models, found.ids[0], stage)
    _confirm_filtered(selection, found, "Execute stage", f"{stage} of", yes)

    def act(run_id: str) -> ActionOutcome:
        later = _stages_after(stage, _with_finished(models, run_id, stage))
        return operations.retry_stage(run_id, stage, by=current_user(), later=later)

    return print_results(store, found, apply_to_each(found.ids, act), as_json)


def _with_finished(models: ReadModels, run_id: str, stage: str) -> Document:
    """The run. Raises CommandError when the stage is not finished."""
    run = models.run(run_id) or {}
    finished = [name for name, each in as_mapping(run.get("checkpoints")).items() if as_mapping(each).get("done")]
    if stage not in finished:
        names = ", ".join(finished) or "none"
        raise CommandError(
            f"{stage!r} is not a finished stage of this run. Finished are: {names}.", ExitCode.USAGE
        )
    return run


def _stages_after(stage: str, run: Document) -> tuple[str, ...]:
    """Empty for a pipeline or parameters that this version does not know."""
    from pod_worker.pipelines import find_pipeline

    try:
        stages = find_pipeline(str(run.get("pipeline"))).stages(dict(as_mapping(run.get("params"))))
    except RunError:
        return ()
    names = [each.name for each in stages]
    return tuple(names[names.index(stage) + 1 :]) if stage in names else ()


def print_results(
    store: StoreSession,
    found: SelectedRuns,
    outcomes: Mapping[str, Outcome],
    as_json: bool,
    texts: Mapping[ActionResult, Callable[[str], str]] | None = None,
) -> int:
    """A line for each run; 3 when one is missing alone, 1 when something failed."""
    models, rows = ReadModels(store.database), []
    shown = {**_RESULT_TEXTS, **(texts or {})}
    statuses = {run_id: str(run.get("status")) for run_id, run in models.runs_by_id(list(outcomes)).items()}
    for run_id, outcome in outcomes.items():
        status = statuses.get(run_id, "-")
        row = _result_row(run_id, outcome, status)
        rows.append(row)
        if not as_json:
            text = shown[outcome.verdict](status) if isinstance(outcome, ActionOutcome) else str(row["message"])
            print_line(f"{run_id}  {text}")
    rows += found.missing_rows()
    if as_json:
        print_json(rows)
    else:
        for word, message in found.missing.items():
            print_line(f"{word}  {message}")
    if outcomes and all(_is(each, ActionResult.MISSING) for each in outcomes.values()):
        return ExitCode.NOT_FOUND
    is_good = all(
        isinstance(each, ActionOutcome) and each.verdict not in (ActionResult.LIVE, ActionResult.MISSING)
        for each in outcomes.values()
    )
    return ExitCode.OK if is_good and not found.missing else ExitCode.FAILED


def _result_row(run_id: str, outcome: Outcome, status: str) -> Document:
    """`verdict` is the earlier name of `result`."""
    if isinstance(outcome, ActionOutcome):
        result = outcome.verdict.value
        return {"id": run_id, "result": result, "verdict": result, "status": status}
    message = outcome.message if isinstance(outcome, CommandError) else describe_error(outcome)
    return {"id": run_id, "result": "failed", "verdict": "failed", "status": status, "message": message}


_RESULT_TEXTS: dict[ActionResult, Callable[[str], str]] = {
    ActionResult.DONE: lambda status: status,
    ActionResult.REQUESTED: lambda status: (
        status if status in TERMINAL_STATUSES else f"{status}: cancellation requested, not confirmed yet"
    ),
    ActionResult.ALREADY: lambda status: f"{status} already; nothing to do",
    ActionResult.LIVE: lambda status: f"{status}: a live worker has it. Wait, cancel it, or use --force.",
    ActionResult.MISSING: lambda _status: "no such run",
}
