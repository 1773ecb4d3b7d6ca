"""The evaluator's metrics equal scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest

from pod_worker.tasks.scoring import SCORERS
from pod_worker.tasks.task import KIND_METRICS, METRICS

sklearn_metrics = pytest.importorskip("sklearn.metrics")
RNG = np.random.default_rng(5)
LABELS = np.concatenate([np.arange(4), RNG.integers(0, 4, 60)])
GUESSES = np.where(RNG.random(64) < 0.6, LABELS, RNG.integers(0, 5, 64))
PROBABILITIES = RNG.dirichlet(np.ones(4), 64)
NUMBERS, CLOSE = RNG.normal(3, 2, 64), RNG.normal(3, 2, 64)


@pytest.mark.parametrize(
    ("name", "labels", "predictions", "expected"),
    [
        ("accuracy", LABELS, GUESSES, lambda a, b: sklearn_metrics.accuracy_score(a, b)),
        (
            "balanced_accuracy",
            LABELS,
            np.minimum(GUESSES, 3),
            lambda a, b: sklearn_metrics.balanced_accuracy_score(a, b),
        ),
        ("macro_f1", LABELS, GUESSES, lambda a, b: sklearn_metrics.f1_score(a, b, average="macro")),
        ("log_loss", LABELS, PROBABILITIES, lambda a, b: sklearn_metrics.log_loss(a, b)),
        ("rmse", NUMBERS, CLOSE, lambda a, b: sklearn_metrics.root_mean_squared_error(a, b)),
        ("mae", NUMBERS, CLOSE, lambda a, b: sklearn_metrics.mean_absolute_error(a, b)),
        ("r2", NUMBERS, CLOSE, lambda a, b: sklearn_metrics.r2_score(a, b)),
    ],
)
def test_a_metric_equals_that_of_scikit_learn(name, labels, predictions, expected) -> None:
    assert SCORERS[name](labels, predictions) == pytest.approx(expected(labels, predictions), rel=1e-12)


def test_every_metric_has_a_function_and_a_kind() -> None:
    assert SCORERS.keys() == METRICS.keys() == {name for names in KIND_METRICS.values() for name in names}


def test_a_probability_of_zero_gives_a_finite_loss() -> None:
    assert SCORERS["log_loss"](np.array([0]), np.array([[0.0, 1.0]])) == pytest.approx(34.5, abs=0.1)
