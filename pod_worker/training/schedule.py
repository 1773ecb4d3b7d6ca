"""The learning rate of every step, as a pure function.

It has no state to save or restore.
"""

from __future__ import annotations

import math

from pod_worker.training.params import TrainingParams


def learning_rate(params: TrainingParams, step: int, total: int) -> float:
    """For the step with this number, from 0.

    Warmup rises to the peak without wasting a step at zero.
    """
    warmup = params.warmup_steps(total)
    if step < warmup:
        return params.lr * (step + 1) / warmup
    done = (step - warmup) / max(total - warmup, 1)
    match params.scheduler:
        case "constant":
            return params.lr
        case "linear":
            return params.lr * (1 - done)
        case "cosine":
            return params.lr * 0.5 * (1 + math.cos(math.pi * done))


def total_steps(params: TrainingParams, steps_per_epoch: int) -> int:
    return params.max_steps if params.max_steps is not None else math.ceil(params.epochs * steps_per_epoch)
