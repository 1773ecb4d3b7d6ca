"""A measured quantity, and the statistics of repeated measurements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

# Two-sided 95 % quantiles of Student's t distribution for 1 … 30 degrees of freedom (any statistics text).
_T_95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Metric:
    """What is measured: accuracy (higher is better, no unit), loss, seconds …"""

    name: str
    direction: Literal["higher", "lower"]
    unit: str = ""

    def is_better(self, candidate: float, reference: float, band: float = 0.0) -> bool:
        """Whether the candidate lies beyond the reference by more than the noise band."""
        gain = candidate - reference if self.direction == "higher" else reference - candidate
        return gain > band

    def best(self, values: Sequence[float]) -> float:
        return max(values) if self.direction == "higher" else min(values)


@dataclass(frozen=True, slots=True)
class Estimate:
    """Mean of repeated measurements with its 95 % confidence interval."""

    mean: float
    half_width: float  # of the interval; infinite for fewer than two values
    deviation: float  # sample standard deviation; infinite for fewer than two values
    count: int


def estimate(values: Sequence[float]) -> Estimate:
    """Raises ValueError without values."""
    if not values:
        raise ValueError("an estimate needs at least one value")
    count = len(values)
    mean = math.fsum(values) / count
    if count < 2:
        return Estimate(mean, math.inf, math.inf, count)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    return Estimate(mean, t_95(count - 1) * deviation / math.sqrt(count), deviation, count)


def t_95(degrees: int) -> float:
    """The two-sided 95 % quantile of Student's t distribution.

    It is an approximation beyond 30 degrees of freedom.
    """
    return _T_95[degrees - 1] if degrees <= len(_T_95) else 1.96 + 2.4 / degrees
