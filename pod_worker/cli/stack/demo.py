"""`pod-worker demo`: a local stack, three runs, and checks.

The input exists on every machine: signatures and docstrings of the Python standard library, and a tiny
Llama-style model that is built first. `--model` and `--dataset` replace them.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import msgspec

from pod_worker.artifacts.object_store import ObjectStore
from pod_worker.cli.composition import StoreSession, open_store
from pod_worker.cli.document_values import as_mapping
from pod_worker.cli.exit_codes import ExitCode
from pod_worker.cli.output import print_json, print_table, say, size
from pod_worker.cli.runs.watch import watch_runs
from pod_worker.cli.stack.demo_command import STEPS, CommandDemo, resumed_after
from pod_worker.cli.stack.up import LocalStack
from pod_worker.config import load
from pod_worker.core.payload import PAYLOADS
from pod_worker.core.run import Json
from pod_worker.core.stage import ROTATED_ROLE
from pod_worker.local.stack import stop_on_signals
from pod_worker.outbox.spool import Spool
from pod_worker.pipelines import find_pipeline
from pod_worker.stages.finetune import check_libraries
from pod_worker.store import artifact_registry
from pod_worker.store.events.reader import LOG_TYPE, EventFilter, EventReader
from pod_worker.store.mongo import Document
from pod_worker.store.queue.run_queue import RunRequest
from pod_worker.store.views.read_models import ReadModels

DELIVERY_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class DemoCheck:
    """A condition for the demo's success."""

    what: str
    found: str
    passed: bool


@click.command()
@click.option(
    "--data", type=click.Path(path_type=Path), help="Keep all files in this folder. [default: a temporary one]"
)
@click.option("--model", help="Train this model (hub id or folder) instead of the tiny one that is built here.")
@click.option("--dataset", help="JSONL file for --model. [default: docstrings of the standard library]")
@click.option(
    "--steps", type=click.IntRange(1), default=60, show_default=True, help="Optimizer steps of the training."
)
@click.option("--json", "as_json", is_flag=True, help="The summary as JSON on stdout.")
@click.option("--keep", is_flag=True, help="Keep the stack running afterwards until Ctrl-C.")
def demo(data: Path | None, model: str | None, dataset: str | None, steps: int, as_json: bool, keep: bool) -> int:
    """Start a local stack, execute three runs, check the results.

    A training, a synthetic run and a command, whose worker is killed once. Exit code 0 only if all runs
    completed, the loss fell, the command continued from its checkpoint, the store has every artifact with its
    hash, and every emitted event is stored.
    """
    return run_demo(data, model, dataset, steps, as_json=as_json, keep=keep)


def run_demo(
    data: Path | None, model: str | None, dataset: str | None, steps: int, *, as_json: bool, keep: bool
) -> int:
    check_libraries()
    stop = threading.Event()
    with demo_folder(data, keep) as folder, stop_on_signals(stop):
        local = LocalStack(folder, stop)
        say(f"starting MongoDB, S3, the control plane and a worker in {folder} …")
        try:
            local.start()
            local.start_worker("worker-1", "--mode", "all", **short_intervals())
            say(f"watch in a browser: {local.url}/")
            return _run(local, folder, model, dataset, steps, stop, as_json=as_json, keep=keep)
        finally:
            say("stopping the stack …")
            local.stack.stop()


@contextmanager
def demo_folder(given: Path | None, keep: bool) -> Iterator[Path]:
    if given is not None:
        yield given.expanduser().resolve()
        return
    made = Path(tempfile.mkdtemp(prefix="pod_worker_demo_"))
    try:
        yield made
    finally:
        if not keep:
            shutil.rmtree(made, ignore_errors=True)


def short_intervals() -> dict[str, str]:
    """A demo should not spend its time waiting for a poll or a heartbeat."""
    return {"POD_WORKER_POLL_SECONDS": "2", "POD_WORKER_HEARTBEAT_SECONDS": "2"}


def _run(
    local: LocalStack,
    folder: Path,
    model: str | None,
    dataset: str | None,
    steps: int,
    stop: threading.Event,
    *,
    as_json: bool,
    keep: bool,
) -> int:
    params = _training_params(folder, model, dataset, steps)
    store = open_store(load(local.env()))
    command = CommandDemo(store, local)
    run_ids = [_queue(store, "training", params), _queue(store, "synthetic", _SYNTHETIC), command.run_id]
    say("queued a LoRA training, a synthetic run and a command; watching …")
    killer = threading.Thread(target=command.kill_and_replace_worker, args=(stop,), daemon=True)
    killer.start()
    watch_runs(store, run_ids)
    killer.join()
    checks = _check(store, local, run_ids)
    report_checks(checks, as_json)
    if keep and not stop.is_set():
        say(f"the stack keeps running: {local.url}/ (Ctrl-C stops it)")
        local.stack.watch()
    elif not keep:
        say("next: `pod-worker demo --keep` keeps the stack; `pod-worker up` starts one of your own")
    return ExitCode.OK if all(check.passed for check in checks) else ExitCode.FAILED


_SYNTHETIC: dict[str, Json] = {"stages": 3, "seconds": 6, "events": 90, "artifact_bytes": 1_000_000}


def _training_params(folder: Path, model: str | None, dataset: str | None, steps: int) -> dict[str, Json]:
    if model is None or dataset is None:
        from pod_worker.training.data import demo_data

        say("building a data set from the standard library's docstrings and a tiny base model …")
        made = demo_data.build(folder / "material")
        say(f"  {made.rows} rows in {made.dataset.name}, model {made.model.name}")
        model, dataset = model or str(made.model), dataset or str(made.dataset)
    params: dict[str, Json] = {"model": model, "dataset": dataset, "max_steps": steps}
    small: dict[str, Json] = {"batch_size": 8, "max_length": 256, "lr": 0.01, "log_every": 2}
    return params | small | {"eval_every": max(steps // 3, 1), "checkpoint_every_steps": max(steps // 3, 1)}


def _queue(store: StoreSession, pipeline: str, params: dict[str, Json]) -> str:
    from ulid import ULID

    checked = find_pipeline(pipeline).check_params(params)
    run, _ = store.queue().enqueue(RunRequest(id=str(ULID()), pipeline=pipeline, params=checked))
    return run.id


# ── the checks ──────────────────────────────────────────────────────────────────────────────────────────────


def _check(store: StoreSession, local: LocalStack, run_ids: list[str]) -> list[DemoCheck]:
    models = ReadModels(store.database)
    runs = [models.run(run_id) or {} for run_id in run_ids]
    checks = [
        DemoCheck(f"{run.get('pipeline')} run", str(run.get("status")), run.get("status") == "COMPLETED")
        for run in runs
    ]
    checks.append(_loss(runs[0]))
    checks.append(_resumed(store, run_ids[2], runs[2]))
    checks += _artifacts(store, local, run_ids)
    checks.append(events_check(store, local, run_ids))
    return checks


def _loss(run: Document) -> DemoCheck:
    summary = (run.get("checkpoints") or {}).get("training", {}).get("state") or {}
    before, after = summary.get("eval_loss_before"), summary.get("eval_loss_after")
    if not isinstance(before, int | float) or not isinstance(after, int | float):
        return DemoCheck("held-out loss", "not reported", False)
    return DemoCheck("held-out loss", f"{before:.3f} → {after:.3f}", after < before)


def _resumed(store: StoreSession, run_id: str, run: Document) -> DemoCheck:
    """The command went on from a checkpoint in its second attempt, on another pod."""
    events = EventReader(store.database).read_page(run_id, EventFilter((LOG_TYPE,)), 1000).items
    step = resumed_after([str(as_mapping(event.get("data")).get("message", "")) for event in events])
    found = f"attempt {run.get('attempt')}, after step {step} of {STEPS}"
    return DemoCheck("command continued after a kill", found, run.get("attempt") == 2 and bool(step))


def _artifacts(store: StoreSession, local: LocalStack, run_ids: list[str]) -> list[DemoCheck]:
    s3 = local.stack.s3
    objects = ObjectStore(s3.url, s3.access_key, s3.secret_key, s3.bucket)
    rows = [row for run_id in run_ids for row in artifact_registry.of_run(store.database, run_id)]
    found = [row for row in rows if row.role != ROTATED_ROLE]  # the sweep deletes old checkpoints meanwhile
    checks = []
    for artifact in found:
        digest = objects.sha256(artifact.key).sha256
        shown = f"{size(artifact.bytes or 0)}  sha256 {digest[:16]}…"
        checks.append(DemoCheck(artifact.key.split("/", 2)[-1], shown, digest == artifact.sha256))
    kinds = {artifact.kind for artifact in found}
    checks.append(
        DemoCheck(
            "adapter, model card, report", f"{len(found)} artifacts", {"adapter", "model_card", "report"} <= kinds
        )
    )
    return checks


def events_check(store: StoreSession, local: LocalStack, run_ids: list[str]) -> DemoCheck:
    """Compare the ids in the worker's spool with the log, after the last delivery."""
    emitted: set[str] = set()
    for directory in sorted((local.data / "spool").glob("worker-*")):
        spool = Spool.attach(directory)
        emitted |= {each for line in spool.lines() if (each := _kept_id(line, run_ids))}
        spool.close()
    stored = _stored(store, run_ids)
    for _ in range(int(DELIVERY_SECONDS / 0.2)):
        if emitted <= stored:
            break
        threading.Event().wait(0.2)
        stored = _stored(store, run_ids)
    lost = len(emitted - stored)
    return DemoCheck(
        "events", f"{len(emitted)} emitted, {len(stored)} stored, {lost} lost", bool(emitted) and lost == 0
    )


def _kept_id(line: bytes, run_ids: list[str]) -> str | None:
    """The id of an event of these runs that belongs in the log.

    Heartbeats do not (CONTRACT section 2).
    """
    event = msgspec.json.decode(line)
    kind = PAYLOADS.get(event["type"])
    is_ours = event["subject"].removeprefix("run/") in run_ids
    return str(event["id"]) if is_ours and not (kind and kind.transient) else None


def _stored(store: StoreSession, run_ids: list[str]) -> set[str]:
    reader = EventReader(store.database)
    return {name for run_id in run_ids for name in reader.ids_between(run_id, 0, reader.last_position(run_id))}


def report_checks(checks: list[DemoCheck], as_json: bool) -> None:
    if as_json:
        print_json([{"check": c.what, "found": c.found, "ok": c.passed} for c in checks])
        return
    rows = [[check.what, check.found, "yes" if check.passed else "NO"] for check in checks]
    print_table(["check", "found", "ok"], rows, {"ok": {"yes": "green", "NO": "bold red"}})
    wrong = sum(not check.passed for check in checks)
    say("all checks passed" if not wrong else f"{wrong} of {len(checks)} checks failed")
