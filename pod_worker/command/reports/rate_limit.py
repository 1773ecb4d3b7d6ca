"""Limits how many values of a metric are emitted; the newest is never lost."""

from __future__ import annotations

import time
from collections.abc import Callable

from pod_worker.core.payload import StageMetric

BURST = 1000  # values of a name at once
VALUES_PER_SECOND = 20.0
NAMES = 1000  # beyond it all further names share one allowance


class _Series:
    __slots__ = ("allowance", "newest", "refilled")

    def __init__(self, now: float) -> None:
        self.allowance, self.refilled = float(BURST), now
        self.newest: dict[str, StageMetric] = {}

    def may_emit(self, now: float) -> bool:
        self.allowance = min(self.allowance + (now - self.refilled) * VALUES_PER_SECOND, BURST)
        self.refilled = now
        if self.allowance < 1:
            return False
        self.allowance -= 1
        return True


class MetricLimit:
    def __init__(self, emit: Callable[[StageMetric], object], now: Callable[[], float] = time.monotonic) -> None:
        self._emit, self._now = emit, now
        self._series: dict[str, _Series] = {}
        self.thinned = 0

    def add(self, metric: StageMetric) -> None:
        key = metric.name if metric.name in self._series or len(self._series) < NAMES else ""
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = _Series(self._now())
        if series.newest.pop(metric.name, None) is not None:
            self.thinned += 1
        if series.may_emit(self._now()):
            self._emit(metric)
        elif len(series.newest) < NAMES:
            series.newest[metric.name] = metric
        else:
            self.thinned += 1

    def emit_due(self) -> None:
        """What was held back, as far as the allowance reaches."""
        now = self._now()
        for series in self._series.values():
            while series.newest and series.may_emit(now):
                self._emit(series.newest.pop(next(iter(series.newest))))

    def flush(self) -> None:
        """The newest value of each series, whatever the allowance."""
        for series in self._series.values():
            for metric in series.newest.values():
                self._emit(metric)
            series.newest.clear()
