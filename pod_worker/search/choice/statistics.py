"""Noise bands: whether a score is better than another, or a draw of its noise.

Replicas of a node differ in their seed alone, so their spread is the noise of the score. "Better" means beyond
the 95 % interval of a difference that this noise explains (Student's t with the pooled deviation of all replicas).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pod_worker.core.research.measure import Estimate, Metric, estimate, t_95


@dataclass(frozen=True, slots=True)
class Noise:
    """The spread of scores of one program; infinite where it was never measured."""

    deviation: float
    degrees: int  # of freedom
    floor: float = 0.0  # smallest difference that counts

    def band(self, first: int = 1, second: int = 1) -> float:
        """Half width for the difference of two means over `first` and `second` executions."""
        if not self.degrees:
            return math.inf
        half_width = t_95(self.degrees) * self.deviation * math.sqrt(1 / first + 1 / second)
        return max(half_width, self.floor)


def pooled_noise(groups: Iterable[Sequence[float]], floor: float = 0.0) -> Noise:
    """The noise within groups of replicas; each group has a mean of its own."""
    squares, degrees = 0.0, 0
    for values in groups:
        if len(values) >= 2:
            squares += estimate(values).deviation ** 2 * (len(values) - 1)
            degrees += len(values) - 1
    return Noise(math.sqrt(squares / degrees) if degrees else math.inf, degrees, floor)


@dataclass(frozen=True, slots=True)
class Comparison:
    candidate: Estimate
    reference: Estimate
    band: float
    is_better: bool


def compare(
    metric: Metric, candidate: Sequence[float], reference: Sequence[float], floor: float = 0.0
) -> Comparison | None:
    """Whether a candidate's replicas are better than the reference's.

    None without scores of both.
    """
    if not candidate or not reference:
        return None
    band = pooled_noise([candidate, reference], floor).band(len(candidate), len(reference))
    first, second = estimate(candidate), estimate(reference)
    return Comparison(first, second, band, metric.is_better(first.mean, second.mean, band))


def is_promoted(metric: Metric, score: float, reference: Sequence[float], floor: float = 0.0) -> bool:
    """Whether one score lies beyond the noise band of a replicated reference."""
    band = pooled_noise([reference], floor).band(1, len(reference))
    return metric.is_better(score, estimate(reference).mean, band)
