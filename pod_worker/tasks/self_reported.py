"""Reads what a program says about itself, where a task has no evaluator.

Such a score is marked as self-reported. It is a claim, and it is bounded and finite; no more is checked.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from pod_worker.core.research.evaluation import NodeScore, RefusalKind
from pod_worker.core.research.measure import Metric
from pod_worker.tasks.result_files import read_result, refuse

FILE = "results.json"
FILE_LIMIT_BYTES = 64 * 1024


class SelfReportedEvaluator:
    """Implements the search's evaluator port for tasks without an evaluator."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def score(self, folder: Path) -> NodeScore:
        """The metric in `out/results.json`. Raises ResultRefusedError."""
        content = read_result(folder, FILE, FILE_LIMIT_BYTES)
        try:
            results = json.loads(content)
        except (ValueError, RecursionError):
            refuse(RefusalKind.UNREADABLE, f"{FILE} is not JSON")
        if not isinstance(results, dict):
            refuse(RefusalKind.SCHEMA, f"{FILE} must be an object with the field {self._metric.name!r}")
        value = results.get(self._metric.name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            refuse(RefusalKind.SCHEMA, f"{FILE} must have a number in the field {self._metric.name!r}")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            refuse(RefusalKind.NOT_FINITE, f"{self._metric.name!r} in {FILE} is not finite")
        return NodeScore(search=number, is_self_reported=True)
