"""The split into train, search and hidden rows, and the change of public data.

A data set that ships in a package can be found elsewhere with its labels. Its rows are therefore shuffled, its
columns permuted and scaled, and little noise is added: a row is not enough to look its label up.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.tasks.task import LabeledData, SplitFractions, TaskKind

NOISE = 0.01  # of a column's standard deviation
SCALES = (0.5, 2.0)
SMALLEST_PART = 10  # rows; a score of fewer says nothing


@dataclass(frozen=True, slots=True)
class SplitRows:
    """Positions of rows in the loaded data, each in a random order."""

    train: NDArray[np.int64]
    search: NDArray[np.int64]
    hidden: NDArray[np.int64]


def split_rows(data: LabeledData, fractions: SplitFractions, kind: TaskKind, seed: int) -> SplitRows:
    """A random split; for classes each part gets its share of every class.

    Raises RunError(INVALID_INPUT) where a part would be too small.
    """
    rng = np.random.default_rng([seed, 1])
    groups = [np.flatnonzero(data.y == each) for each in np.unique(data.y)]
    if kind == "regression":
        groups = [np.arange(len(data.y))]
    parts: list[list[NDArray[np.int64]]] = [[], [], []]
    for rows in groups:
        shuffled = rng.permutation(rows)
        train = round(len(rows) * fractions.train)
        search = train + round(len(rows) * fractions.search)
        for part, chosen in zip(parts, np.split(shuffled, [train, search]), strict=True):
            part.append(chosen)
    split = SplitRows(*(rng.permutation(np.concatenate(part)) for part in parts))
    _check_sizes(split, data, kind)
    return split


def _check_sizes(split: SplitRows, data: LabeledData, kind: TaskKind) -> None:
    parts = {"train": split.train, "search": split.search, "hidden": split.hidden}
    for name, rows in parts.items():
        if len(rows) < SMALLEST_PART:
            raise RunError(
                FailureCode.INVALID_INPUT,
                f"the {name} part would have {len(rows)} rows; at least {SMALLEST_PART} are needed. "
                "Add rows or change the split.",
            )
        if len(np.unique(data.y[rows])) < 2:
            raise RunError(
                FailureCode.INVALID_INPUT,
                f"every label of the {name} part is the same, so no score tells programs apart. Add rows.",
            )
    if kind == "classification" and (missing := set(data.y.tolist()) - set(data.y[split.train].tolist())):
        names = ", ".join(data.classes[label] for label in sorted(missing))
        raise RunError(FailureCode.INVALID_INPUT, f"no training row has the class {names}. Add rows of it.")


@dataclass(frozen=True, slots=True)
class Perturbation:
    """x -> x[:, columns] * scales + noise; without the noise it can be inverted."""

    columns: NDArray[np.int64]
    scales: NDArray[np.float64]

    def apply(self, x: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
        noise = np.random.default_rng([seed, 3]).normal(0.0, NOISE, x.shape)
        changed = (x[:, self.columns] + noise * x[:, self.columns].std(axis=0)) * self.scales
        return np.asarray(changed, dtype=np.float32)

    def invert(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        restored = np.empty_like(x)
        restored[:, self.columns] = x / self.scales
        return restored


def draw_perturbation(features: int, seed: int) -> Perturbation:
    rng = np.random.default_rng([seed, 2])
    scales = np.exp(rng.uniform(math.log(SCALES[0]), math.log(SCALES[1]), features))
    return Perturbation(rng.permutation(features), scales)


def array_digest(array: NDArray[Any]) -> str:
    """SHA-256 of type, shape and values."""
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape} ".encode())
    digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
