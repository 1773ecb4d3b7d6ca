"""A training that was interrupted ends as the one that was not: to the bit."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pod_worker.core.failure import DrainRequested
from pod_worker.core.payload import TrainingCheckpoint
from pod_worker.core.run import Json
from pod_worker.core.stage import ArtifactKind
from pod_worker.stages.finetune import FINETUNE
from tests.training.context import FolderContext, Stop

Params = Callable[..., dict[str, Json]]
SAME = (
    "loss_first",
    "loss_last",
    "eval_loss_before",
    "eval_loss_after",
    "steps",
    "tokens",
    "loss_tokens",
    "rows",
    "adapter_sha256",
)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, Json]], dict[str, Json]]:
    done: dict[str, dict[str, Json]] = {}

    def run(params: dict[str, Json]) -> dict[str, Json]:
        name = json.dumps(params)
        if name not in done:
            done[name] = FINETUNE.run(FolderContext(tmp_path_factory.mktemp("whole"), params))
        return done[name]

    return run


def assert_same(one: dict[str, Json], other: dict[str, Json]) -> None:
    assert {name: one[name] for name in SAME} == {name: other[name] for name in SAME}


def test_a_killed_process_is_finished_by_another_one(
    tmp_path: Path, params: Params, uninterrupted: Params
) -> None:
    wanted = params(checkpoint_every_steps=4, eval_every=5, gradient_accumulation=2, batch_size=2)
    command = [sys.executable, "-m", "tests.training.attempt", str(tmp_path)]
    killed = subprocess.run([*command, "1", "9", json.dumps(wanted)], cwd=ROOT, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert json.loads((tmp_path / "state.json").read_text())["step"] == 8
    finished = subprocess.run([*command, "2", "-1", json.dumps(wanted)], cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""  # no progress bars, no warnings: what libraries say is in the log
    assert_same(json.loads(finished.stdout), uninterrupted(wanted))


@pytest.mark.parametrize("checks", [1, 5, 8, 13, 17, 30])
def test_a_drain_saves_the_last_whole_step_and_another_pod_goes_on(
    tmp_path: Path, params: Params, uninterrupted: Params, checks: int
) -> None:
    """The checks fall into the first evaluation, into the middle of steps, and into a later evaluation."""
    wanted = params(eval_every=4, gradient_accumulation=2, batch_size=2)
    first = FolderContext(tmp_path, wanted, stop=Stop(after=checks, reason=DrainRequested))
    with pytest.raises(DrainRequested):
        FINETUNE.run(first)
    saved = [each.step for each in first.events if isinstance(each, TrainingCheckpoint)]
    second = FolderContext(tmp_path, wanted, attempt=2, pod="other")
    summary = FINETUNE.run(second)
    assert ([f"resumed at step {saved[0]} of 12"] if saved else []) == [
        line for line in second.logs() if line.startswith("resumed")
    ]
    assert_same(summary, uninterrupted(wanted))


def test_a_drain_that_ends_the_upload_too_loses_no_step_on_this_pod(
    tmp_path: Path, params: Params, uninterrupted: Params
) -> None:
    wanted = params()
    first = FolderContext(tmp_path, wanted, stop=Stop(after=10, reason=DrainRequested))
    first.artifacts.stop = first.stop
    with pytest.raises(DrainRequested):
        FINETUNE.run(first)
    assert first.saved_state["key"] == ""
    second = FolderContext(tmp_path, wanted, attempt=2)
    assert_same(FINETUNE.run(second), uninterrupted(wanted))
    assert f"resumed at step {first.saved_state['step']} of 12" in second.logs()


def test_a_training_can_be_interrupted_again_and_again(
    tmp_path: Path, params: Params, uninterrupted: Params
) -> None:
    wanted = params()
    summary: dict[str, Json] = {}
    for attempt in range(1, 20):
        context = FolderContext(tmp_path, wanted, attempt=attempt, stop=Stop(after=5, reason=DrainRequested))
        if context.saved_state.get("step") == 12:
            context.stop.reason = None
        try:
            summary = FINETUNE.run(context)
            break
        except DrainRequested:
            continue
    assert attempt > 2
    assert_same(summary, uninterrupted(wanted))


def test_a_spoiled_checkpoint_costs_time_and_nothing_else(
    tmp_path: Path, params: Params, uninterrupted: Params
) -> None:
    wanted = params(checkpoint_every_steps=3)
    first = FolderContext(tmp_path, wanted, stop=Stop(after=14, reason=DrainRequested))
    with pytest.raises(DrainRequested):
        FINETUNE.run(first)
    steps = sorted(path.name for path in (first.work_dir / "checkpoints").iterdir())
    for path in tmp_path.rglob(steps[-1]):
        path.write_bytes(path.read_bytes()[:1000])
    second = FolderContext(tmp_path, wanted, attempt=2)
    assert_same(FINETUNE.run(second), uninterrupted(wanted))
    assert any("cannot be used" in line for line in second.logs("warning"))
    assert any(line.startswith("resumed at step") for line in second.logs())


def test_a_store_that_takes_no_checkpoints_stops_no_training(
    tmp_path: Path, params: Params, uninterrupted: Params
) -> None:
    wanted = params(checkpoint_every_steps=3)
    context = FolderContext(tmp_path, wanted)
    context.artifacts.refused.add(ArtifactKind.CHECKPOINT)
    assert_same(FINETUNE.run(context), uninterrupted(wanted))
    assert any("stays on this pod only" in line for line in context.logs("warning"))


def test_a_checkpoint_is_due_after_minutes_too(tmp_path: Path, params: Params) -> None:
    from pod_worker.core.clock import ManualClock
    from pod_worker.training.lora import finetune
    from pod_worker.training.params import parse

    wanted = params(checkpoint_every_minutes=1, log_every=1)
    clock = ManualClock()
    context = FolderContext(tmp_path, wanted, on_emit=lambda _event: clock.advance(4))  # 6 events a step: 24 s
    finetune(context, parse(wanted), clock)
    saved = [each.step for each in context.events if isinstance(each, TrainingCheckpoint)]
    assert 3 <= len(saved) <= 6
    assert saved[-1] == 12
