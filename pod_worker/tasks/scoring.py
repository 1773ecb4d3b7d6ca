"""The metrics that the evaluator computes, in numpy.

Definitions are those of scikit-learn's functions of the same name; the tests compare both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
SMALLEST_PROBABILITY = 1e-15


def accuracy(labels: Array, predictions: Array) -> float:
    return float(np.mean(labels == predictions))


def balanced_accuracy(labels: Array, predictions: Array) -> float:
    """The mean of the recalls of the classes that occur in the labels."""
    return float(np.mean([np.mean(predictions[labels == each] == each) for each in np.unique(labels)]))


def macro_f1(labels: Array, predictions: Array) -> float:
    """The mean F1 of every class that occurs in the labels or the predictions."""
    return float(np.mean([_f1(labels == each, predictions == each) for each in np.union1d(labels, predictions)]))


def _f1(is_label: Array, is_prediction: Array) -> float:
    together = int(is_label.sum() + is_prediction.sum())
    return 2.0 * float((is_label & is_prediction).sum()) / together if together else 0.0


def log_loss(labels: Array, probabilities: Array) -> float:
    """The mean negative log-likelihood in nats; rows are scaled to add up to 1."""
    scaled = probabilities / probabilities.sum(axis=1, keepdims=True)
    chosen = scaled[np.arange(len(labels)), labels]
    return float(-np.mean(np.log(np.clip(chosen, SMALLEST_PROBABILITY, 1.0))))


def rmse(labels: Array, predictions: Array) -> float:
    return float(np.sqrt(np.mean((labels - predictions) ** 2)))


def mae(labels: Array, predictions: Array) -> float:
    return float(np.mean(np.abs(labels - predictions)))


def r2(labels: Array, predictions: Array) -> float:
    """1 minus the residual sum of squares over the total one.

    The total is never 0: a split whose labels are all the same is refused.
    """
    total = np.sum((labels - labels.mean()) ** 2)
    return float(1.0 - np.sum((labels - predictions) ** 2) / total)


SCORERS: dict[str, Callable[[Array, Array], float]] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "macro_f1": macro_f1,
    "log_loss": log_loss,
    "rmse": rmse,
    "mae": mae,
    "r2": r2,
}
