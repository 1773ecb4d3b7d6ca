"""Which rows make up which optimizer step: pure in lengths, seed and step.

Nothing here holds a position, so a training resumes at any step by asking for that step. Rows of similar length
meet in one step (little padding), and no row is left out or seen twice in an epoch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias, TypeVar

import numpy

# Steps' worth of rows sorted together. Larger pads less, smaller mixes better.
WINDOW_STEPS = 32

Indices: TypeAlias = tuple[int, ...]
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class BatchPlan:
    """The plan of batches.

    `lengths[i]` is the length of row i in tokens; `by_length` False keeps the plain shuffled order.
    """

    lengths: tuple[int, ...]
    rows_per_step: int
    seed: int
    by_length: bool = True

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.lengths) / self.rows_per_step)

    def step_rows(self, step: int) -> Indices:
        """The rows of the step with this number, from 0.

        The last step of an epoch may be a short one.
        """
        epoch, place = divmod(step, self.steps_per_epoch)
        return _epoch(self, epoch)[place]


def micro_batches(rows: Sequence[int], batch_size: int, lengths: Sequence[int]) -> list[Indices]:
    """Cut a step's rows into forward passes of similar length."""
    ordered = sorted(rows, key=lambda row: (lengths[row], row))
    return [tuple(ordered[at : at + batch_size]) for at in range(0, len(ordered), batch_size)]


def split(items: Sequence[T], fraction: float, seed: int) -> tuple[list[T], list[T]]:
    """Two parts in the given order, (training, held out), drawn with the seed.

    A fraction above 0 holds out at least one of two items, and one always stays for training.
    """
    held = min(max(round(len(items) * fraction), 1), len(items) - 1) if fraction > 0 else 0
    chosen = set(numpy.random.default_rng([seed, 1]).permutation(len(items))[:held].tolist())
    return (
        [item for place, item in enumerate(items) if place not in chosen],
        [item for place, item in enumerate(items) if place in chosen],
    )


# Keyed by the plan's identity: hashing a million lengths at each step would cost more than the step.
@lru_cache(maxsize=2)
def _epoch(plan: BatchPlan, epoch: int) -> list[Indices]:
    random = numpy.random.default_rng([plan.seed, 2, epoch])
    order: list[int] = random.permutation(len(plan.lengths)).tolist()
    if plan.by_length:
        order = _sorted_in_windows(order, plan)
    size = plan.rows_per_step
    steps = [tuple(order[at : at + size]) for at in range(0, len(order), size)]
    return [steps[place] for place in random.permutation(len(steps)).tolist()] if plan.by_length else steps


def _sorted_in_windows(order: list[int], plan: BatchPlan) -> list[int]:
    window = plan.rows_per_step * WINDOW_STEPS
    ordered: list[int] = []
    for at in range(0, len(order), window):
        ordered += sorted(order[at : at + window], key=lambda row: plan.lengths[row])
    return ordered
