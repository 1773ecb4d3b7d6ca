"""The callback for transformers in a training of its Trainer, on the smallest model."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pod_worker import report

pytestmark = pytest.mark.slow  # the import of the Trainer alone takes seconds
transformers: Any = pytest.importorskip("transformers")


@pytest.fixture(scope="module", autouse=True)
def trainer_is_imported() -> None:
    """Without bitsandbytes, which would import torch's compiler: most of the time."""
    from pod_worker.training.model.base_model import _without_bitsandbytes

    with _without_bitsandbytes(True):
        assert transformers.Trainer


@pytest.fixture
def events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("POD_WORKER_EVENTS", str(tmp_path / "events"))
    monkeypatch.setenv("POD_WORKER_STOP_FILE", str(tmp_path / "stop"))
    monkeypatch.setattr(report, "_fd", -1)
    return tmp_path / "events"


def lines(events: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in events.read_text().splitlines()]


def train(folder: Path, *more: Any, steps: int = 4) -> Any:
    import torch

    from pod_worker.integrations.transformers import PodWorkerCallback

    class Model(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, x: Any) -> dict[str, Any]:
            return {"loss": ((self.weight * x) ** 2).mean()}

    args = transformers.TrainingArguments(
        output_dir=str(folder / "out"),
        max_steps=steps,
        logging_steps=2,
        save_steps=3,
        per_device_train_batch_size=1,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    data = [{"x": torch.tensor([float(i)])} for i in range(1, 5)]
    trainer = transformers.Trainer(Model(), args, train_dataset=data, callbacks=[PodWorkerCallback(), *more])
    trainer.train()
    return trainer


def test_a_training_reports_metrics_progress_and_checkpoints(events: Path, tmp_path: Path) -> None:
    train(tmp_path)
    found = lines(events)
    assert [(each["step"], each["epoch"]) for each in found if each.get("metric") == "loss"] == [
        (2, 0.5),
        (4, 1.0),
    ]
    assert [each["progress"] for each in found if "progress" in each][-1] == 1
    assert found.count({"checkpoint": True}) == 2  # step 3, and the last


def test_a_request_to_stop_saves_a_checkpoint_and_ends_the_training(events: Path, tmp_path: Path) -> None:
    class Stop(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            (tmp_path / "stop").touch()

    assert train(tmp_path, Stop(), steps=100).state.global_step == 1
    assert (tmp_path / "out" / "checkpoint-1").is_dir()
    assert {"checkpoint": True} in lines(events)


def test_other_processes_of_a_training_report_nothing_and_stop_together(
    events: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch import distributed

    from pod_worker.integrations.transformers import PodWorkerCallback

    asked: list[int] = []

    def reduce_with_one_that_stops(answer: Any, op: Any) -> None:
        asked.append(int(answer))
        answer.fill_(1)

    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "all_reduce", reduce_with_one_that_stops)
    args = SimpleNamespace(world_size=2, device="cpu")
    stopped = []
    for step in (9, 10):
        control = SimpleNamespace(should_training_stop=False, should_save=False)
        state = SimpleNamespace(is_world_process_zero=False, global_step=step, max_steps=20, epoch=None)
        callback = PodWorkerCallback()
        callback.on_log(args, state, control, {"loss": 1.0})
        callback.on_step_end(args, state, control)
        callback.on_save(args, state, control)
        stopped.append(control.should_training_stop and control.should_save)
    assert (stopped, asked) == ([False, True], [0])
    assert not events.exists()
