"""`pod-worker runs …`: queue runs, see how they do, and say what should become of them."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import click

from pod_worker.cli.composition import StoreSession, open_store
from pod_worker.cli.exit_codes import CommandError, ExitCode
from pod_worker.cli.output import is_terminal, print_json, say
from pod_worker.cli.runs import views
from pod_worker.cli.runs.views import TERMINAL_STATUSES, follow_run, json_option, parse_age, resolve_run, status_of
from pod_worker.core.run import Json, Requirements
from pod_worker.store.queue.operations import ActionOutcome, ActionResult
from pod_worker.store.queue.run_queue import RunRequest
from pod_worker.store.views.read_models import ReadModels


@click.group()
def runs() -> None:
    """Submit, list, show, follow and manage runs."""


# ── submit ──────────────────────────────────────────────────────────────────────────────────────────────────


@runs.command()
@click.argument("pipeline")
@click.option(
    "--param", "-p", "pairs", multiple=True, metavar="NAME=VALUE", help="One parameter; VALUE may be JSON."
)
@click.option(
    "--params", "params_file", metavar="FILE", help="Parameters as a JSON object: a file, or - for stdin."
)
@click.option("--queue", help="Another queue than the pipeline's own.")
@click.option("--priority", type=int, default=0, show_default=True, help="Higher goes first.")
@click.option("--max-attempts", type=click.IntRange(1), default=3, show_default=True)
@click.option("--unique-key", help="At most one run ever has this key; a second submit returns the first run.")
@click.option("--gpu", help="Only a pod with this GPU, e.g. 'RTX 4090'.")
@click.option("--min-vram-gb", type=float, help="Only a pod with at least so much GPU memory.")
@click.option("--region", help="Only a pod in this region.")
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE")
@click.option("--count", type=click.IntRange(1, 1_000_000), default=1, help="Queue so many of them.")
@click.option("--watch", "then_watch", is_flag=True, help="Follow it to the end.")
@json_option
def submit(
    pipeline: str,
    pairs: tuple[str, ...],
    params_file: str | None,
    queue: str | None,
    priority: int,
    max_attempts: int,
    unique_key: str | None,
    gpu: str | None,
    min_vram_gb: float | None,
    region: str | None,
    labels: tuple[str, ...],
    count: int,
    then_watch: bool,
    as_json: bool,
) -> int:
    """Queue a run of PIPELINE. Parameters are checked here, before anything is queued."""
    from ulid import ULID

    from pod_worker.pipelines import find_pipeline

    params = find_pipeline(pipeline).check_params(_params(pairs, params_file))
    if unique_key and count > 1:
        raise CommandError("--unique-key makes one run; --count asks for more", ExitCode.USAGE)
    store = open_store(with_indexes=True)

    def request() -> RunRequest:
        return RunRequest(
            id=str(ULID()),
            pipeline=pipeline,
            params=params,
            queue=queue,
            priority=priority,
            max_attempts=max_attempts,
            unique_key=unique_key,
            requirements=Requirements(gpu, min_vram_gb, region),
            labels=dict(_pair(each) for each in labels),
        )

    if count > 1:
        return _submit_many(store, [request() for _ in range(count)], as_json)
    run, is_new = store.queue().enqueue(request())
    if as_json:
        print_json({"id": run.id, "status": run.status.value, "new": is_new})
    else:
        click.echo(run.id)
        say("queued" if is_new else f"not queued: this run has the key {unique_key!r} already ({run.status})")
    return follow_run(store, run.id) if then_watch else ExitCode.OK


def _submit_many(store: StoreSession, requests: list[RunRequest], as_json: bool) -> int:
    queue = store.queue()
    for start in range(0, len(requests), 1000):
        queue.enqueue_many(requests[start : start + 1000])
    ids = [request.id for request in requests]
    if as_json:
        print_json({"ids": ids})
    else:
        click.echo("\n".join(ids))
    say(f"queued {len(ids)} runs")
    return ExitCode.OK


def _params(pairs: tuple[str, ...], file: str | None) -> dict[str, Json]:
    params: dict[str, Json] = {}
    if file:
        try:
            text = sys.stdin.read() if file == "-" else Path(file).read_text()
            params = json.loads(text)
        except (OSError, ValueError) as error:
            raise CommandError(f"--params {file}: {error}", ExitCode.USAGE) from None
        if not isinstance(params, dict):
            raise CommandError(f'--params {file}: a JSON object is needed, like {{"seconds": 3}}', ExitCode.USAGE)
    return params | {name: _value(value) for name, value in map(_pair, pairs)}


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise CommandError(f"{text!r}: NAME=VALUE is needed", ExitCode.USAGE)
    return name, value


def _value(text: str) -> Json:
    try:
        return json.loads(text)
    except ValueError:
        return text  # a bare word is a string


# ── verbs ───────────────────────────────────────────────────────────────────────────────────────────────────


@runs.command()
@click.argument("run_ids", nargs=-1, required=True)
@click.option("--reason", help="Kept on the run.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option(
    "--wait/--no-wait", default=True, help="Wait until a running run's worker has confirmed. [default: wait]"
)
@json_option
def cancel(run_ids: tuple[str, ...], reason: str | None, yes: bool, wait: bool, as_json: bool) -> int:
    """End runs: waiting ones at once, running ones through their worker."""
    store = open_store()
    ids = [str(resolve_run(ReadModels(store.database), each)["_id"]) for each in run_ids]
    if not yes and is_terminal():
        click.confirm(f"Cancel {', '.join(ids)}?", abort=True, err=True)
    operations = store.operations()
    answers = [operations.cancel(run_id, by=_current_user(), reason=reason) for run_id in ids]
    for run_id, answer in zip(ids, answers, strict=True):
        if answer.verdict is ActionResult.REQUESTED and wait:
            _wait_until_ended(store, run_id)
    return _print_results(store, ids, answers, as_json)


def _wait_until_ended(store: StoreSession, run_id: str, seconds: float = 120) -> None:
    say(f"{run_id}: asked its worker to stop …")
    end = time.monotonic() + seconds
    while status_of(store, run_id) not in TERMINAL_STATUSES and time.monotonic() < end:
        time.sleep(0.2)


@runs.command()
@click.argument("run_ids", nargs=-1, required=True)
@click.option("--force", is_flag=True, help="Take it away from a worker that still holds it.")
@click.option("--from-scratch", is_flag=True, help="Forget finished stages too.")
@click.option("--dry-run", is_flag=True, help="Say what would happen, change nothing.")
@json_option
def reset(run_ids: tuple[str, ...], force: bool, from_scratch: bool, dry_run: bool, as_json: bool) -> int:
    """Queue ended or stale runs again.

    A failed or canceled run goes on after its last finished stage; a completed one starts over. Whoever still
    holds the run can write nothing more: the attempt number is raised.
    """
    store = open_store()
    models = ReadModels(store.database)
    ids = [str(resolve_run(models, each)["_id"]) for each in run_ids]
    if dry_run:
        for run_id in ids:
            run = resolve_run(models, run_id)
            attempt = run.get("attempt") or 0
            say(f"{run_id}: {run.get('status')} → QUEUED, attempt {attempt} → {attempt + 1}")
        return ExitCode.OK
    operations = store.operations()
    answers = [operations.reset(each, by=_current_user(), force=force, from_scratch=from_scratch) for each in ids]
    return _print_results(store, ids, answers, as_json)


@runs.command("retry-stage")
@click.argument("run_id")
@click.argument("stage")
@json_option
def retry_stage(run_id: str, stage: str, as_json: bool) -> int:
    """Do one stage of an ended run again; the other finished stages are kept."""
    store = open_store()
    run = resolve_run(ReadModels(store.database), run_id)
    done = run.get("checkpoints") or {}
    if stage not in done:
        raise CommandError(
            f"{stage!r} is no finished stage of this run; there is: {', '.join(done) or 'none'}", ExitCode.USAGE
        )
    answer = store.operations().retry_stage(run["_id"], stage, by=_current_user())
    return _print_results(store, [run["_id"]], [answer], as_json)


@runs.command()
@click.option(
    "--older-than", default="30d", show_default=True, metavar="AGE", help="Ended longer ago than this: 12h, 30d."
)
@click.option(
    "--status",
    multiple=True,
    type=click.Choice(sorted(TERMINAL_STATUSES)),
    help="Only these. [default: any ended]",
)
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@json_option
def prune(older_than: str, status: tuple[str, ...], yes: bool, as_json: bool) -> int:
    """Delete old ended runs with their events, metrics and artifacts."""
    from pod_worker.cli.control import object_store
    from pod_worker.store.pruning import RunPruner

    store = open_store()
    work = RunPruner(store.database)
    before = datetime.now(UTC) - parse_age(older_than)
    ids = work.find(list(status) or sorted(TERMINAL_STATUSES), before)
    if ids and not yes:
        click.confirm(f"Delete {len(ids)} runs and everything they left?", abort=True, err=True)
    objects = object_store(store.settings) if ids else None
    removed = work.delete(ids, objects.delete if objects else None)
    if as_json:
        print_json({"runs": len(ids), "documents": removed, "objects": objects is not None})
    else:
        say(
            f"deleted {len(ids)} runs, {removed} documents"
            + ("" if objects or not ids else "; objects are left in the store")
        )
    return ExitCode.OK


def _print_results(store: StoreSession, ids: list[str], answers: list[ActionOutcome], as_json: bool) -> int:
    words: dict[ActionResult, Callable[[str], str]] = {
        ActionResult.DONE: lambda status: status,
        ActionResult.REQUESTED: lambda status: (
            status if status in TERMINAL_STATUSES else f"{status}: its worker was asked and has not confirmed yet"
        ),
        ActionResult.ALREADY: lambda status: f"{status} already; nothing to do",
        ActionResult.LIVE: lambda status: f"{status} and a worker holds it; wait, cancel it, or use --force",
        ActionResult.MISSING: lambda _status: "no such run",
    }
    said = []
    for run_id, answer in zip(ids, answers, strict=True):
        status = status_of(store, run_id) or "-"
        said.append({"id": run_id, "verdict": answer.verdict.value, "status": status})
        if not as_json:
            click.echo(f"{run_id}  {words[answer.verdict](status)}")
    if as_json:
        print_json(said)
    verdicts = {answer.verdict for answer in answers}
    if ActionResult.MISSING in verdicts:
        return ExitCode.NOT_FOUND
    return ExitCode.FAILED if ActionResult.LIVE in verdicts else ExitCode.OK


def _current_user() -> str:
    return os.environ.get("USER") or os.environ.get("LOGNAME") or "somebody"


for view in (views.list_runs, views.show, views.logs, views.watch, views.why, views.stats):
    runs.add_command(view)
