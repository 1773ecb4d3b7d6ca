"""A task: data, split, metric, and whether an evaluator scores the predictions.

This module and the catalogue import no numpy, so that commands can list tasks on any machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pod_worker.core.research.measure import Metric

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TaskKind = Literal["classification", "regression"]

# What the evaluator can compute; `scoring` has the functions.
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", "higher"),
        Metric("balanced_accuracy", "higher"),
        Metric("macro_f1", "higher"),
        Metric("log_loss", "lower", "nats"),
        Metric("rmse", "lower"),
        Metric("mae", "lower"),
        Metric("r2", "higher"),
    )
}
KIND_METRICS: dict[TaskKind, tuple[str, ...]] = {
    "classification": ("accuracy", "balanced_accuracy", "macro_f1", "log_loss"),
    "regression": ("rmse", "mae", "r2"),
}


@dataclass(frozen=True, slots=True)
class SplitFractions:
    """Parts of the rows; they add up to 1."""

    train: float = 0.6
    search: float = 0.2
    hidden: float = 0.2


@dataclass(frozen=True, slots=True)
class LabeledData:
    """Rows of features and their labels.

    A label is the position of its class in `classes`, or a number for regression.
    """

    x: NDArray[np.float32]  # rows, features
    y: NDArray[np.int64] | NDArray[np.float64]
    classes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    name: str
    title: str
    description: str
    metric: Metric
    kind: TaskKind
    load: Callable[[int], LabeledData]  # takes the seed of the split
    split: SplitFractions = SplitFractions()
    # Files and folders that contain hidden labels or the way to compute them; the sandbox closes them.
    private_paths: Callable[[], tuple[Path, ...]] = tuple
    is_perturbed: bool = False  # public data: rows are not enough to look the labels up in another copy
    has_evaluator: bool = True  # False: results are self-reported

    @property
    def predicts_probabilities(self) -> bool:
        return self.metric.name == "log_loss"
