"""A callback for the Trainer of transformers (also of TRL and Axolotl).

    trainer = Trainer(..., callbacks=[PodWorkerCallback()])
    trainer.train(resume_from_checkpoint=os.environ["RESUME"] == "1")

With `output_dir=os.environ["CHECKPOINT_DIR"]` in the arguments, each checkpoint leaves the pod when it is saved.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from transformers.trainer_callback import TrainerCallback

from pod_worker import report

if TYPE_CHECKING:
    from transformers.trainer_callback import TrainerControl, TrainerState
    from transformers.training_args import TrainingArguments

PROGRESS_SECONDS = 1.0
AGREEMENT_STEPS = 10  # processes of one training compare this seldom whether to stop


class PodWorkerCallback(TrainerCallback):  # type: ignore[misc]
    """Reports metrics and progress; saves and ends when the run should stop."""

    def __init__(self) -> None:
        self._next_progress_at = 0.0

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not state.is_world_process_zero:
            return
        more = {} if state.epoch is None else {"epoch": state.epoch}
        for name, value in (logs or {}).items():
            if name != "epoch" and isinstance(value, (int, float)):
                report.metric(name, value, state.global_step, **more)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        now = time.monotonic()
        if now >= self._next_progress_at:
            self._next_progress_at = now + PROGRESS_SECONDS
            _report_progress(state)
        if _should_stop(args, state):
            control.should_save = control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        _report_progress(state)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            report.checkpoint()


def _report_progress(state: TrainerState) -> None:
    if state.is_world_process_zero and state.max_steps > 0:
        report.progress(min(state.global_step / state.max_steps, 1.0))


def _should_stop(args: TrainingArguments, state: TrainerState) -> bool:
    """All processes answer the same.

    One that ends alone would leave the others waiting for it.
    """
    if args.world_size <= 1:
        return report.should_stop()
    if state.global_step % AGREEMENT_STEPS:
        return False
    import torch
    from torch import distributed

    if not distributed.is_initialized():
        return report.should_stop()
    answer = torch.tensor(int(report.should_stop()), device=args.device)
    distributed.all_reduce(answer, op=distributed.ReduceOp.MAX)
    return bool(answer.item())
