"""The training loop: steps, held-out loss, metrics, checkpoints.

A resumed loop continues exactly, at any step.

A step's gradient is normalised by the loss-bearing tokens of the whole step, so accumulation changes memory and
nothing else. What follows a step depends on the step alone, so a resumed training does the same. `lora` publishes
the results.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from pod_worker.core.clock import Clock
from pod_worker.core.failure import DrainRequested, FailureCode, RunError
from pod_worker.core.stage import Context
from pod_worker.training.checkpoints import random_state
from pod_worker.training.checkpoints.checkpoint import EvalPoint, LossPoint, Progress, TrainingSnapshot
from pod_worker.training.checkpoints.checkpoint_store import CheckpointStore
from pod_worker.training.data.batches import BatchPlan, micro_batches
from pod_worker.training.data.masks import Example
from pod_worker.training.hardware import ExecutionPlan
from pod_worker.training.metrics_reporter import MetricsReporter
from pod_worker.training.model.base_model import DTYPES, adapter_weights
from pod_worker.training.model.loss import TokenBatch, collate, loss_sum
from pod_worker.training.params import TrainingParams
from pod_worker.training.schedule import learning_rate


@dataclass(frozen=True, slots=True)
class TrainingTask:
    """All that a training is made of; two equal tasks train the same adapter."""

    params: TrainingParams
    execution: ExecutionPlan
    model: torch.nn.Module
    training: Sequence[Example]
    held_out: Sequence[Example]
    plan: BatchPlan
    total: int  # optimizer steps
    fingerprint: dict[str, str]


class TrainingLoop:
    def __init__(self, task: TrainingTask, context: Context, shelf: CheckpointStore, clock: Clock) -> None:
        self.progress = Progress()
        self._task, self._params, self._context = task, task.params, context
        self._shelf, self._clock = shelf, clock
        self._weights = adapter_weights(task.model)
        self._optimizer = _optimizer(self._weights, task)
        self._scaler = torch.amp.GradScaler(task.execution.device, enabled=task.execution.precision == "fp16")
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=task.execution.device)
        self._grad_norm = torch.zeros(())
        self._meter = MetricsReporter(context, task.params, task.total, task.plan.steps_per_epoch)
        self._saved_step, self._saved_at = 0, clock.monotonic()

    def run(self) -> Progress:
        """From where the last checkpoint left off to the end.

        Raises RunError when the loss is not finite.
        """
        random_state.seed_all(self._params.seed)
        if snapshot := self._shelf.load_latest(self._task.fingerprint):
            self._resume(snapshot)
        self._meter.begin(self.progress)
        random = random_state.capture()
        try:
            self._after_step()
            while self.progress.step < self._task.total:
                random = random_state.capture()
                self._take_step()
                random = random_state.capture()
                self._after_step()
        except DrainRequested:
            # A step that was cut off is taken again, with the random numbers it had.
            random_state.restore(random)
            self._save()
            raise
        self._check_weights()
        if self._params.checkpoint_every_steps or self._params.checkpoint_every_minutes:
            self._save()  # publishing may fail, and must not cost the training
        return self.progress

    # ── one step ────────────────────────────────────────────────────────────────────────────────────────────

    def _take_step(self) -> None:
        began, step = self._clock.monotonic(), self.progress.step
        rows = self._task.plan.step_rows(step)
        examples = self._task.training
        tokens = sum(examples[row].loss_tokens for row in rows)
        self._task.model.train()
        total = torch.zeros_like(self._loss_sum)
        for micro in micro_batches(rows, self._params.batch_size, self._task.plan.lengths):
            self._context.stop.check()
            with self._autocast():
                loss = loss_sum(self._task.model, self._batch([examples[row] for row in micro]))
            self._scaler.scale(loss / tokens).backward()
            total += loss.detach()
        self._update(step)
        self._loss_sum += total
        progress = self.progress
        row_tokens = sum(len(examples[row]) for row in rows)
        progress.step = step + 1
        progress.rows += len(rows)
        progress.row_tokens += row_tokens
        progress.tokens += tokens
        progress.loss_tokens += tokens
        progress.seconds += self._meter.record_step(self._clock.monotonic() - began, row_tokens, tokens)

    def _update(self, step: int) -> None:
        self._scaler.unscale_(self._optimizer)
        limit = self._params.grad_clip or math.inf
        self._grad_norm = torch.nn.utils.clip_grad_norm_(self._weights.values(), limit)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(self._params, step, self._task.total)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad()

    def _batch(self, examples: Sequence[Example]) -> TokenBatch:
        return collate(examples, self._task.execution.packed).to(self._task.execution.device)

    def _autocast(self) -> AbstractContextManager[object]:
        if self._task.execution.precision == "fp32":
            return nullcontext()
        cast: AbstractContextManager[object] = torch.autocast(
            self._task.execution.device, DTYPES[self._task.execution.precision]
        )
        return cast

    # ── between steps ───────────────────────────────────────────────────────────────────────────────────────

    def _after_step(self) -> None:
        step, params = self.progress.step, self._params
        is_last = step == self._task.total
        if step and (is_last or step % params.log_every == 0) and not self._has_logged(step):
            self._log_metrics()
        if (step == 0 or is_last or (params.eval_every and step % params.eval_every == 0)) and (
            not self.progress.evals or self.progress.evals[-1].step < step
        ):
            self._evaluate()
        if self._is_checkpoint_due():
            self._save()

    def _has_logged(self, step: int) -> bool:
        return bool(self.progress.curve) and self.progress.curve[-1].step >= step

    def _log_metrics(self) -> None:
        progress, step = self.progress, self.progress.step
        self._sync_from_device()
        loss = _finite(progress.loss_sum / progress.loss_tokens, "loss", step)
        point = LossPoint(step, loss, learning_rate(self._params, step - 1, self._task.total), progress.grad_norm)
        progress.curve.append(point)
        progress.loss_sum, progress.loss_tokens = 0.0, 0
        self._loss_sum.zero_()
        self._meter.report(progress)

    def _evaluate(self) -> None:
        if not self._task.held_out:
            return
        loss = self.held_out_loss()
        self.progress.evals.append(EvalPoint(self.progress.step, loss))
        self._meter.report_eval(self.progress)

    def held_out_loss(self) -> float:
        """Negative log-likelihood per loss-bearing token of the held-out rows.

        It draws no random numbers.
        """
        lengths = [len(example) for example in self._task.held_out]
        total = torch.zeros_like(self._loss_sum)
        self._task.model.eval()
        for micro in micro_batches(range(len(lengths)), self._params.batch_size, lengths):
            self._context.stop.check()
            with torch.no_grad(), self._autocast():
                total += loss_sum(self._task.model, self._batch([self._task.held_out[row] for row in micro]))
        loss: float = total.item() / sum(example.loss_tokens for example in self._task.held_out)
        return _finite(loss, "held-out loss", self.progress.step)

    # ── saving and resuming ─────────────────────────────────────────────────────────────────────────────────

    def _is_checkpoint_due(self) -> bool:
        since, every = self.progress.step - self._saved_step, self._params.checkpoint_every_steps
        minutes = self._params.checkpoint_every_minutes
        is_time = minutes > 0 and self._clock.monotonic() - self._saved_at >= minutes * 60
        return since > 0 and ((every > 0 and since >= every) or is_time)

    def _save(self) -> None:
        step = self.progress.step
        if step == self._saved_step:
            return
        self._sync_from_device()
        _finite(self.progress.loss_sum, "loss", step)
        self._check_weights()
        began = self._clock.monotonic()
        self._saved_step, self._saved_at = step, began  # before the upload: a drain in it must not repeat it
        entry = self._shelf.save(
            TrainingSnapshot(
                self.progress,
                self._task.fingerprint,
                self._weights,
                _optimizer_tensors(self._optimizer, self._weights),
                random_state.capture(),
            )
        )
        took = round(self._clock.monotonic() - began, 3)
        self._context.log(f"checkpoint of step {step}", "info", seconds=took, bytes=entry.bytes, key=entry.key)

    def _check_weights(self) -> None:
        """Check the weights after the last update.

        The loss of a step is computed before its update, so the last update shows only in the weights.
        """
        wrong = [name for name, weight in self._weights.items() if not bool(torch.isfinite(weight).all())]
        if wrong:
            raise _diverged(
                f"{len(wrong)} of {len(self._weights)} adapter weights are not finite", self.progress.step
            )

    def _sync_from_device(self) -> None:
        """Bring what was summed on the device into the progress."""
        self.progress.loss_sum = self._loss_sum.item()
        if math.isfinite(norm := float(self._grad_norm)):  # fp16 skips a step whose gradient overflowed
            self.progress.grad_norm = norm
        self.progress.scaler = self._scaler.state_dict()

    def _resume(self, snapshot: TrainingSnapshot) -> None:
        self.progress = snapshot.progress
        for name, weight in self._weights.items():
            weight.data.copy_(snapshot.adapter[name])
        _load_optimizer(self._optimizer, self._weights, snapshot.optimizer)
        if snapshot.progress.scaler and self._scaler.is_enabled():
            self._scaler.load_state_dict(snapshot.progress.scaler)
        self._loss_sum.fill_(snapshot.progress.loss_sum)
        self._grad_norm.fill_(snapshot.progress.grad_norm)
        random_state.restore(snapshot.random)
        self._saved_step = snapshot.progress.step
        self._context.log(f"resumed at step {self._saved_step} of {self._task.total}", "info")


def _optimizer(weights: Mapping[str, Tensor], task: TrainingTask) -> torch.optim.AdamW:
    params = task.params
    return torch.optim.AdamW(
        list(weights.values()),
        lr=params.lr,
        betas=(params.beta1, params.beta2),
        eps=params.epsilon,
        weight_decay=params.weight_decay,
        fused=True,  # one kernel for all weights; there are hundreds of small ones
    )


def _optimizer_tensors(optimizer: torch.optim.AdamW, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    states = ((name, optimizer.state.get(weight, {})) for name, weight in weights.items())
    return {f"{name}/{part}": each for name, state in states for part, each in state.items()}


def _load_optimizer(
    optimizer: torch.optim.AdamW, weights: Mapping[str, Tensor], saved: Mapping[str, Tensor]
) -> None:
    state = {
        place: {part: saved[f"{name}/{part}"] for part in ("step", "exp_avg", "exp_avg_sq")}
        for place, name in enumerate(weights)
    }
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _finite(value: float, what: str, step: int) -> float:
    if not math.isfinite(value):
        raise _diverged(f"the {what} is {value}", step)
    return value


def _diverged(what: str, step: int) -> RunError:
    return RunError(
        FailureCode.USER_ERROR,
        f"training diverged at step {step}: {what}. Lower lr, raise warmup or set grad_clip: "
        "pod-worker runs reset ID --from-scratch --param lr=…",
    )
