import math

import pytest

from pod_worker.core.research.measure import Metric, estimate, t_95

ACCURACY = Metric("accuracy", "higher")
LOSS = Metric("loss", "lower", "nats")


@pytest.mark.parametrize(
    ("metric", "candidate", "reference", "band", "is_better"),
    [
        (ACCURACY, 0.9, 0.8, 0.0, True),
        (ACCURACY, 0.9, 0.8, 0.2, False),
        (ACCURACY, 0.8, 0.8, 0.0, False),
        (LOSS, 0.8, 0.9, 0.0, True),
        (LOSS, 0.9, 0.8, 0.0, False),
        (LOSS, 0.8, 0.9, 0.2, False),
    ],
)
def test_better_means_beyond_the_band_in_the_metrics_direction(
    metric: Metric, candidate: float, reference: float, band: float, is_better: bool
) -> None:
    assert metric.is_better(candidate, reference, band) is is_better


def test_the_best_value_follows_the_direction() -> None:
    assert ACCURACY.best([0.1, 0.3, 0.2]) == 0.3
    assert LOSS.best([0.1, 0.3, 0.2]) == 0.1


def test_an_estimate_of_three_values_has_the_interval_of_students_t() -> None:
    found = estimate([1.0, 2.0, 3.0])
    assert (found.mean, found.deviation, found.count) == (2.0, 1.0, 3)
    assert found.half_width == pytest.approx(4.303 / math.sqrt(3))


def test_one_value_has_no_interval() -> None:
    assert estimate([1.0]).half_width == math.inf


def test_no_value_is_no_estimate() -> None:
    with pytest.raises(ValueError, match="at least one"):
        estimate([])


def test_the_quantile_falls_towards_that_of_the_normal_distribution() -> None:
    values = [t_95(degrees) for degrees in range(1, 200)]
    assert values == sorted(values, reverse=True)
    assert values[-1] == pytest.approx(1.972, abs=0.01)
