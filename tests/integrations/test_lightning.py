"""The logger for Lightning in a training of Lightning; skipped where the library is not installed.

It is no dependency of the tests: with torch there, `pip install lightning` adds 60 MB.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

lightning: Any = pytest.importorskip("lightning.pytorch", exc_type=ModuleNotFoundError)


@pytest.mark.filterwarnings("ignore")
def test_a_training_reports_metrics_and_asks_for_snapshots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning.pytorch.demos.boring_classes import BoringModel

    from pod_worker import report
    from pod_worker.integrations.lightning import PodWorkerLogger

    class Model(BoringModel):  # type: ignore[misc]
        def training_step(self, batch: Any, index: int) -> Any:
            found = super().training_step(batch, index)
            self.log("loss", found["loss"])
            return found

    events, checkpoints = tmp_path / "events", tmp_path / "checkpoints"
    monkeypatch.setenv("POD_WORKER_EVENTS", str(events))
    monkeypatch.setenv("POD_WORKER_RUN_ID", "r1")
    monkeypatch.setenv("CHECKPOINT_DIR", str(checkpoints))
    monkeypatch.setattr(report, "_fd", -1)
    logger = PodWorkerLogger()
    trainer = lightning.Trainer(
        logger=logger,
        max_epochs=2,
        limit_train_batches=4,
        limit_val_batches=0,
        log_every_n_steps=2,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    trainer.fit(Model())
    logger.log_hyperparams({"lr": 0.1})
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    steps = [(each["step"], each["epoch"]) for each in lines if each.get("metric") == "loss"]
    assert steps == [(1, 0), (3, 0), (5, 1), (7, 1)]
    assert {"checkpoint": True} in lines
    assert lines[-1]["log"] == "hyperparameters: {'lr': 0.1}"
    assert list((checkpoints / "lightning" / "r1").rglob("*.ckpt"))
