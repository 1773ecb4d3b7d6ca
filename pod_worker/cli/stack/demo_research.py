"""`pod-worker demo-research`: one hypothesis to a reviewed paper.

The scripted model writes ideas, programs and text, so that no account is needed. Its programs train real models on
real data in the sandbox, and the paper is a real PDF. `--model` asks a language model instead.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path

import click

from pod_worker.artifacts.object_store import ObjectStore
from pod_worker.cli.composition import StoreSession, open_store
from pod_worker.cli.document_values import as_mapping, as_number
from pod_worker.cli.exit_codes import CommandError, ExitCode
from pod_worker.cli.output import say, size
from pod_worker.cli.runs.cost import latest_cost
from pod_worker.cli.runs.watch import watch_runs
from pod_worker.cli.stack.demo import DemoCheck, demo_folder, events_check, report_checks, short_intervals
from pod_worker.cli.stack.up import LocalStack
from pod_worker.config import load
from pod_worker.core.model_access import SCRIPTED
from pod_worker.core.run import Json
from pod_worker.local.stack import stop_on_signals
from pod_worker.sandbox.floor import local_floor
from pod_worker.store import artifact_registry
from pod_worker.store.ideation.hypotheses import HypothesisRequest
from pod_worker.store.ideation.operations import ExperimentLaunch
from pod_worker.store.ideation.requests import IdeationRequest
from pod_worker.store.mongo import Document
from pod_worker.store.views.read_models import ReadModels

TITLE = "What helps a small model read short sequences?"
HYPOTHESIS = (
    "A representation of the input that fits its structure helps a small model more than a larger model does, "
    "when there are few rows to learn from."
)
TASK = "sequences"
LAUNCH_SECONDS = 120.0
CALLS_PER_NODE = 5.0  # the reach of the design; AI-Scientist-v2 needs 15.7
# Enough to see every stage at work in a few minutes on two cores.
SHORT: dict[str, Json] = {
    "stage_1_iterations": 4,
    "stage_2_iterations": 4,
    "stage_3_iterations": 5,
    "stage_4_iterations": 3,
    "node_seconds": 30,
    "slots": 2,
}


@click.command("demo-research")
@click.option(
    "--data", type=click.Path(path_type=Path), help="Keep all files in this folder. [default: a temporary one]"
)
@click.option("--model", default=SCRIPTED, show_default=True, help="The language model; a key must be set for it.")
@click.option("--task", default=TASK, show_default=True, help="A shipped task, or a folder with task.yaml.")
@click.option("--hypothesis", default=HYPOTHESIS, help="What to find out. [default: one about small models]")
@click.option("--json", "as_json", is_flag=True, help="The checks as JSON on stdout.")
@click.option("--keep", is_flag=True, help="Keep the stack running afterwards until Ctrl-C.")
def demo_research(data: Path | None, model: str, task: str, hypothesis: str, as_json: bool, keep: bool) -> int:
    """Start a local stack and take one hypothesis to a reviewed paper.

    Exit code 0 only if ideas were written, the experiments ran, the paper is a PDF whose numbers all trace to the
    journal, reviews gave a verdict, and every emitted event is stored.
    """
    from pod_worker.paper.typesetting.latex import check_toolchain
    from pod_worker.tasks.catalogue import find_task

    check_toolchain()
    find_task(task)
    stop = threading.Event()
    with demo_folder(data, keep) as folder, stop_on_signals(stop):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o711)  # programs have a user of their own, who must reach their folders
        local = LocalStack(folder, stop)
        say(f"starting MongoDB, S3, the control plane and a worker in {folder} …")
        try:
            local.start()
            local.start_worker("worker-1", "--mode", "all", **short_intervals(), **_model_settings(model))
            say(f"watch in a browser: {local.url}/")
            return _run(local, model, task, hypothesis, stop, as_json=as_json, keep=keep)
        finally:
            say("stopping the stack …")
            local.stack.stop()


def _model_settings(model: str) -> dict[str, str]:
    """Settings of the worker: the scripted model, and what protects programs."""
    if model != SCRIPTED:
        return {}
    floor, note = local_floor()
    if note:
        say(f"note: {note}")
    return {"POD_WORKER_LLM": SCRIPTED, **({"POD_WORKER_SANDBOX_FLOOR": floor} if floor else {})}


def _run(
    local: LocalStack, model: str, task: str, hypothesis: str, stop: threading.Event, *, as_json: bool, keep: bool
) -> int:
    store = open_store(load(local.env()))
    request_id, run_id = _submit(store, model, task, hypothesis)
    say("queued an ideation request and the experiment that follows it; watching …")
    _wait_for_run(store, request_id)
    watch_runs(store, [request_id])
    _wait_for_run(store, run_id)
    watch_runs(store, [run_id])
    checks = _checks(store, local, request_id, run_id)
    report_checks(checks, as_json)
    if keep and not stop.is_set():
        say(f"the stack keeps running: {local.url}/runs/{run_id} (Ctrl-C stops it)")
        local.stack.watch()
    elif not keep:
        say("next: `pod-worker demo-research --keep` keeps the stack, the paper and the report")
    return ExitCode.OK if all(check.passed for check in checks) else ExitCode.FAILED


def _submit(store: StoreSession, model: str, task: str, hypothesis: str) -> tuple[str, str]:
    from ulid import ULID

    name, request_id, run_id = str(ULID()), str(ULID()), str(ULID())
    asked: dict[str, Json] = {"model": model}
    request = IdeationRequest(
        id=request_id, hypothesis_id=name, reflections=2, max_num_generations=2, params=asked | {"tasks": [task]}
    )
    launch = ExperimentLaunch(hypothesis_id=name, run_id=run_id, params=asked | {"task": task} | SHORT)
    operations = store.ideation_operations()
    operations.create(HypothesisRequest(id=name, title=TITLE, text=hypothesis), request, launch)
    return request_id, run_id


def _wait_for_run(store: StoreSession, run_id: str) -> None:
    """Wait until the run is queued.

    A request becomes a run at a worker's next poll, an experiment when the ideas are stored.
    """
    models, end = ReadModels(store.database), time.monotonic() + LAUNCH_SECONDS
    while models.run(run_id) is None:
        if time.monotonic() > end:
            raise CommandError(f"run {run_id} was not queued within {LAUNCH_SECONDS:.0f} seconds", ExitCode.FAILED)
        time.sleep(0.2)


# ── the checks ──────────────────────────────────────────────────────────────────────────────────────────────


def _checks(store: StoreSession, local: LocalStack, request_id: str, run_id: str) -> list[DemoCheck]:
    models = ReadModels(store.database)
    ideation, run = models.run(request_id) or {}, models.run(run_id) or {}
    states = {name: as_mapping(as_mapping(saved).get("state")) for name, saved in _checkpoints(run).items()}
    return [
        _ideas(ideation),
        DemoCheck("experiment run", str(run.get("status")), run.get("status") == "AWAITING_HUMAN"),
        *_stages(states),
        _calls(run, states),
        *_paper(store, local, run_id, states),
        _verdict(states),
        events_check(store, local, [request_id, run_id]),
    ]


def _checkpoints(run: Document) -> Mapping[str, Json]:
    return as_mapping(run.get("checkpoints"))


def _ideas(ideation: Document) -> DemoCheck:
    state = as_mapping(as_mapping(_checkpoints(ideation).get("ideation")).get("state"))
    count = as_number(state.get("ideas")) or 0
    return DemoCheck("ideas", f"{count:.0f} written", ideation.get("status") == "COMPLETED" and count > 0)


def _stages(states: Mapping[str, Mapping[str, Json]]) -> list[DemoCheck]:
    found = []
    for name in ("Stage_1", "Stage_2", "Stage_3", "Stage_4"):
        state = states.get(name, {})
        executed, scored = (as_number(state.get(key)) or 0 for key in ("executed", "scored"))
        mean = as_number(state.get("replica_mean"))
        shown = f"{executed:.0f} programs executed, {scored:.0f} scored"
        if mean is not None:
            seeds = as_number(state.get("replica_count")) or 0
            shown += f", best {state.get('metric')} {mean:.4f} over {seeds:.0f} seeds"
        found.append(DemoCheck(name, shown, scored > 0))
    return found


def _calls(run: Document, states: Mapping[str, Mapping[str, Json]]) -> DemoCheck:
    executed = sum(as_number(state.get("executed")) or 0 for state in states.values())
    spent = latest_cost(run)
    operations = as_mapping(spent.get("operations"))
    calls = sum(
        as_number(as_mapping(each).get("calls")) or 0
        for name, each in operations.items()
        if name.startswith("node.")
    )
    rate = calls / executed if executed else 0.0
    shown = f"{rate:.1f} model calls per executed program, ${as_number(spent.get('usd')) or 0:.2f} in all"
    return DemoCheck("cost", shown, 0 < rate <= CALLS_PER_NODE)


def _paper(
    store: StoreSession, local: LocalStack, run_id: str, states: Mapping[str, Mapping[str, Json]]
) -> list[DemoCheck]:
    s3 = local.stack.s3
    objects = ObjectStore(s3.url, s3.access_key, s3.secret_key, s3.bucket)
    found = {
        artifact.key.split("/", 3)[-1]: artifact for artifact in artifact_registry.of_run(store.database, run_id)
    }
    checks = []
    for name in ("paper/paper.pdf", "report.html", "reproduction/journal.ndjson"):
        artifact = found.get(name)
        intact = artifact is not None and objects.sha256(artifact.key).sha256 == artifact.sha256
        shown = f"{size(artifact.bytes or 0)}  sha256 {(artifact.sha256 or '')[:16]}…" if artifact else "missing"
        checks.append(DemoCheck(name, shown, intact))
    paper = as_mapping(states.get("validation", {}).get("checks"))
    wrong = [name for name, holds in paper.items() if holds is not True]
    checks.append(
        DemoCheck(
            "checks of the paper",
            f"{len(paper) - len(wrong)} of {len(paper)} hold" + (f"; not: {', '.join(wrong)}" if wrong else ""),
            bool(paper) and not wrong,
        )
    )
    return checks


def _verdict(states: Mapping[str, Mapping[str, Json]]) -> DemoCheck:
    state = states.get("validation", {})
    overall = as_number(as_mapping(state.get("scores")).get("Overall"))
    verdict = str(state.get("verdict", "none"))
    shown = (
        f"{verdict}, mean Overall {overall:.2f} of {as_number(state.get('reviews')) or 0:.0f} reviews"
        if overall
        else verdict
    )
    return DemoCheck("verdict", shown, verdict in ("pass", "fail"))
