"""Downsampling that keeps a curve's shape: largest-triangle-three-buckets.

Sveinn Steinarsson, "Downsampling Time Series for Visual Representation" (University of Iceland, 2013). Keeps
the first and the last point and never invents one. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

XY: TypeAlias = tuple[float, float]


def lttb(points: Sequence[XY], wanted: int) -> list[int]:
    """The indexes of at most `wanted` points (at least 3), in order."""
    wanted = max(3, wanted)
    if len(points) <= wanted:
        return list(range(len(points)))
    kept = [0]
    width = (len(points) - 2) / (wanted - 2)
    for bucket in range(wanted - 2):
        start, end = int(bucket * width) + 1, int((bucket + 1) * width) + 1
        ahead = points[end : min(int((bucket + 2) * width) + 1, len(points))] or points[-1:]
        far = (sum(x for x, _ in ahead) / len(ahead), sum(y for _, y in ahead) / len(ahead))
        near = points[kept[-1]]
        kept.append(max(range(start, end), key=lambda index: _area(near, points[index], far)))
    return [*kept, len(points) - 1]


def _area(a: XY, b: XY, c: XY) -> float:
    return abs((a[0] - c[0]) * (b[1] - a[1]) - (a[0] - b[0]) * (c[1] - a[1]))
