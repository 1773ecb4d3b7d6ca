"""A logger for PyTorch Lightning, as `lightning` or as `pytorch_lightning`.

    trainer = Trainer(logger=PodWorkerLogger(), ...)

Lightning then saves checkpoints below $CHECKPOINT_DIR, and each leaves the pod when it is saved.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from pod_worker import report

try:
    from lightning.pytorch.loggers.logger import Logger
    from lightning.pytorch.utilities import rank_zero_only
except ImportError:
    from pytorch_lightning.loggers.logger import Logger
    from pytorch_lightning.utilities import rank_zero_only

if TYPE_CHECKING:
    from collections.abc import Mapping


class PodWorkerLogger(Logger):  # type: ignore[misc]
    """Reports metrics; a saved checkpoint asks for a snapshot."""

    @property
    def name(self) -> str:
        return "lightning"

    @property
    def version(self) -> str:
        """The same for each attempt of a run, so that the next one finds the checkpoints."""
        return os.environ.get("POD_WORKER_RUN_ID", "local")

    @property
    def save_dir(self) -> str | None:
        return os.environ.get("CHECKPOINT_DIR")

    @rank_zero_only  # type: ignore[untyped-decorator]
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        epoch = metrics.get("epoch")
        more = {} if epoch is None else {"epoch": epoch}
        for name, value in metrics.items():
            if name != "epoch":
                report.metric(name, value, step, **more)

    @rank_zero_only  # type: ignore[untyped-decorator]
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """One line of the run's log."""
        report.log(f"hyperparameters: {params}")

    @rank_zero_only  # type: ignore[untyped-decorator]
    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        report.checkpoint()
