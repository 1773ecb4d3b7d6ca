"""Reports how a training goes: metrics, progress and the time left.

It measures and decides nothing.

Rates are over time spent in steps: padding, evaluation and checkpoints make no number larger or smaller than the
work that was done. One rate counts all tokens of the rows, as other trainers do; one the loss-bearing ones alone.
"""

from __future__ import annotations

import psutil
import torch

from pod_worker.core.payload import StageMetric, StageProgress
from pod_worker.core.stage import Context
from pod_worker.training.checkpoints.checkpoint import Progress
from pod_worker.training.params import TrainingParams


class MetricsReporter:
    def __init__(self, context: Context, params: TrainingParams, total: int, steps_per_epoch: int) -> None:
        self._context, self._params = context, params
        self._total, self._steps_per_epoch = total, steps_per_epoch
        self._steps, self._step_seconds = 0, 0.0  # in this attempt: another machine may have been slower
        self._row_tokens, self._loss_tokens, self._seconds = 0, 0, 0.0  # since the last report

    def begin(self, progress: Progress) -> None:
        self._emit_progress(progress.step)

    def record_step(self, seconds: float, row_tokens: int, loss_tokens: int) -> float:
        self._steps += 1
        self._step_seconds += seconds
        self._row_tokens += row_tokens
        self._loss_tokens += loss_tokens
        self._seconds += seconds
        return seconds

    def report(self, progress: Progress) -> None:
        point = progress.curve[-1]
        self._metric("loss", point.loss, point.step)
        self._metric("learning_rate", point.lr, point.step)
        self._metric("grad_norm", point.grad_norm, point.step)
        if self._seconds > 0:
            self._metric("tokens_per_second", self._row_tokens / self._seconds, point.step, "tokens/s")
            self._metric("loss_tokens_per_second", self._loss_tokens / self._seconds, point.step, "tokens/s")
        self._metric("memory_gb", memory_gb(), point.step, "GB")
        self._row_tokens, self._loss_tokens, self._seconds = 0, 0, 0.0
        self._emit_progress(point.step)

    def report_eval(self, progress: Progress) -> None:
        point = progress.evals[-1]
        self._metric("eval_loss", point.loss, point.step)

    def _metric(self, name: str, value: float, step: int, unit: str | None = None) -> None:
        epoch = round(step / self._steps_per_epoch, 4)
        self._context.emit(
            StageMetric(stage=self._context.stage, name=name, value=value, step=step, epoch=epoch, unit=unit)
        )

    def _emit_progress(self, step: int) -> None:
        pace = self._step_seconds / self._steps if self._steps else None
        self._context.emit(
            StageProgress(
                stage=self._context.stage,
                progress=step / self._total if self._total else 1.0,
                eta_s=round(pace * (self._total - step), 1) if pace is not None else None,
                iteration=step,
                max_iterations=self._total,
            )
        )


def memory_gb() -> float:
    """The largest memory so far, in 10^9 bytes.

    Of the GPU what was allocated, without a GPU this process's resident set.
    """
    if torch.cuda.is_available():
        return float(round(torch.cuda.max_memory_allocated() / 1e9, 3))
    return float(round(psutil.Process().memory_info().rss / 1e9, 3))
