"""Promotion: noise is not better, a real gain is."""

from __future__ import annotations

import math
import random

import pytest

from pod_worker.core.research.measure import Metric
from pod_worker.search.choice.statistics import compare, is_promoted, pooled_noise
from tests.search.fakes import ACCURACY

LOSS = Metric("loss", "lower")


def draws(rng, count, mean=0.0):
    return [rng.gauss(mean, 1.0) for _ in range(count)]


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("metric", [ACCURACY, LOSS])
def test_of_200_identical_nodes_at_most_five_percent_are_promoted(seeds, metric):
    """Over many baselines: the rate is 2.5 % by construction of the band."""
    rng = random.Random(seeds)
    rounds = 60
    promoted = 0
    for _ in range(rounds):
        baseline = draws(rng, seeds)
        promoted += sum(is_promoted(metric, score, baseline) for score in draws(rng, 200))
    assert promoted / (200 * rounds) <= 0.05


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_best_of_200_identical_nodes_is_promoted_in_at_most_five_percent_of_stages(seeds):
    """The luck of the best of many draws is not in its fresh replicas."""
    rng = random.Random(10 + seeds)
    rounds = 1_000
    promoted = sum(compare(ACCURACY, draws(rng, seeds), draws(rng, seeds)).is_better for _ in range(rounds))
    assert promoted / rounds <= 0.05


def test_a_real_gain_is_promoted():
    rng = random.Random(1)
    found = [compare(ACCURACY, draws(rng, 3, mean=6.0), draws(rng, 3)).is_better for _ in range(200)]
    assert sum(found) / 200 > 0.9
    found = [compare(LOSS, draws(rng, 3, mean=-6.0), draws(rng, 3)).is_better for _ in range(200)]
    assert sum(found) / 200 > 0.9


def test_without_a_measured_noise_nothing_is_better():
    assert pooled_noise([[1.0], []]).band() == math.inf
    assert not compare(ACCURACY, [9.0], [1.0]).is_better
    assert compare(ACCURACY, [], [1.0, 2.0]) is None


def test_noise_is_pooled_within_groups():
    noise = pooled_noise([[0.0, 2.0], [100.0, 102.0]])
    assert (noise.deviation, noise.degrees) == (pytest.approx(math.sqrt(2)), 2)
    assert noise.band(3, 3) == pytest.approx(4.303 * math.sqrt(2) * math.sqrt(2 / 3))


def test_the_floor_holds_where_replicas_are_equal():
    assert compare(ACCURACY, [0.91, 0.91], [0.9, 0.9]).is_better
    assert not compare(ACCURACY, [0.91, 0.91], [0.9, 0.9], floor=0.02).is_better
