"""The work: an endless stream of runs from a seed, of many shapes, each with the ends that would be right.

Short and long ones, with artifacts, checkpoints, noise and faults of their own; runs that hang for ever and wait
until the harness cancels them; now and then a tiny real training. The workload does not know the faults.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pod_worker.core.run import Json

FAILED, COMPLETED, CANCELED = "FAILED", "COMPLETED", "CANCELED"


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """A run to queue. `ends` are the right ends; a cancel by the harness makes CANCELED right as well.

    `hangs`: it never ends without a cancel, which comes `patience_seconds` after its start.
    """

    id: str
    shape: str
    pipeline: str
    params: dict[str, Json]
    ends: tuple[str, ...] = (COMPLETED,)
    hangs: bool = False
    patience_seconds: float = 0.0
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Training:
    """Where the material for a tiny training lies."""

    dataset: Path
    model: Path


def orders(
    seed: int, training: Training | None = None, *, share_of_trainings: float = 0.04, pace: float = 1.0
) -> Iterator[PlannedRun]:
    """The same runs in the same order for the same arguments. `pace` 2 makes them take half the time."""
    rng = random.Random(f"work:{seed}")
    number = 0
    while True:
        number += 1
        trains = rng.random() < share_of_trainings and training is not None
        shape = "training" if trains else _draw(rng)
        params, ends, hangs = (
            (_training(training, rng), (COMPLETED,), False) if trains and training else _SHAPES[shape](rng)
        )
        if "seconds" in params:
            params["seconds"] = round(params["seconds"] / pace, 2)
        patience = round(rng.uniform(1.0, 4.0), 2) if hangs else 0.0
        pipeline = "training" if trains else "synthetic"
        yield PlannedRun(f"chaos-{number:05d}", shape, pipeline, params, ends, hangs, patience, {"shape": shape})


def _draw(rng: random.Random) -> str:
    return rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]


_Made = tuple[dict[str, Json], tuple[str, ...], bool]


def _short(rng: random.Random) -> _Made:
    seconds = round(rng.uniform(0.3, 3.0), 2)
    return {"stages": rng.randint(1, 3), "seconds": seconds, "events": rng.randint(6, 60)}, (COMPLETED,), False


def _long(rng: random.Random) -> _Made:
    params = {
        "stages": rng.randint(3, 6),
        "seconds": round(rng.uniform(10, 30), 2),
        "events": rng.randint(60, 200),
        "checkpoint_every": rng.randint(2, 8),
    }
    return params, (COMPLETED,), False


def _with_artifacts(rng: random.Random) -> _Made:
    size = int(10 ** rng.uniform(3, 6.5))
    params = {"stages": rng.randint(1, 4), "seconds": round(rng.uniform(1, 6), 2), "artifact_bytes": size}
    return params, (COMPLETED,), False


def _noisy(rng: random.Random) -> _Made:
    params = {"stages": 2, "seconds": 2.0, "stdout_bytes": rng.randint(1, 4) * 1_000_000}
    return params, (COMPLETED,), False


def _chatty(rng: random.Random) -> _Made:
    return {"stages": 2, "seconds": 3.0, "events": rng.randint(1000, 3000)}, (COMPLETED,), False


def _failing(rng: random.Random) -> _Made:
    kind = rng.choice(["user_error", "cuda_oom"])
    return {"stages": 2, "seconds": 2.0, "fail_at": 2.5, "fail_kind": kind}, (FAILED,), False


def _crashing_once(rng: random.Random) -> _Made:
    kind = rng.choice(["segfault", "sigkill"])
    params = {"stages": 3, "seconds": 3.0, "fail_at": 2.5, "fail_kind": kind, "fail_attempts": 1}
    return params, (COMPLETED,), False


def _hanging(rng: random.Random) -> _Made:
    kind = rng.choice(["ignore_sigterm", "hold_gil", "hang", "fork_bomb_small"])
    return {"stages": 2, "seconds": 2.0, "fail_at": 1.5, "fail_kind": kind}, (CANCELED,), True


_SHAPES: dict[str, Callable[[random.Random], _Made]] = {
    "short": _short,
    "long": _long,
    "artifacts": _with_artifacts,
    "noisy": _noisy,
    "chatty": _chatty,
    "failing": _failing,
    "crashing": _crashing_once,
    "hanging": _hanging,
}
_WEIGHTS = {
    "short": 30,
    "long": 20,
    "artifacts": 18,
    "noisy": 4,
    "chatty": 6,
    "failing": 6,
    "crashing": 6,
    "hanging": 10,
}


def _training(training: Training, rng: random.Random) -> dict[str, Json]:
    return {
        "model": str(training.model),
        "dataset": str(training.dataset),
        "max_rows": 64,
        "max_steps": rng.randint(6, 14),
        "batch_size": 4,
        "max_length": 96,
        "log_every": 1,
        "checkpoint_every_steps": 3,
        "threads": 1,
        "rank": 4,
        "eval_fraction": 0.1,
    }
