"""Reads the learning curves that a program may write; no score depends on them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from pod_worker.core.research.evaluation import RefusalKind, ResultRefusedError
from pod_worker.core.run import Json
from pod_worker.core.terminal_text import one_line
from pod_worker.tasks.result_files import read_result

FILE = "curves.json"
FILE_LIMIT_BYTES = 1024 * 1024
CURVES_LIMIT = 20
POINTS_LIMIT = 1_000  # of a curve; longer ones are thinned
NAME_LIMIT = 100


@dataclass(frozen=True, slots=True)
class LearningCurve:
    name: str
    steps: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class LearningCurves:
    curves: tuple[LearningCurve, ...] = ()
    problem: str = ""  # why a file or a curve was left out


def read_curves(folder: Path) -> LearningCurves:
    """What `out/curves.json` holds, within bounds.

    A missing file has no curves and no problem.
    """
    try:
        entries = json.loads(read_result(folder, FILE, FILE_LIMIT_BYTES))
    except ResultRefusedError as refusal:
        return LearningCurves(problem="" if refusal.kind is RefusalKind.MISSING else refusal.message)
    except (ValueError, RecursionError):
        return LearningCurves(problem=f"{FILE} is not JSON")
    if not isinstance(entries, list):
        return LearningCurves(problem=f"{FILE} must be a list of curves")
    read = [_curve(entry) for entry in entries[:CURVES_LIMIT]]
    left_out = len(entries) - sum(curve is not None for curve in read)
    problem = f"{left_out} of {len(entries)} curves in {FILE} were left out" if left_out else ""
    return LearningCurves(tuple(curve for curve in read if curve is not None), problem)


def _curve(entry: Json) -> LearningCurve | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        return None
    steps, values = _numbers(entry.get("steps")), _numbers(entry.get("values"))
    if not steps or len(steps) != len(values):
        return None
    stride = -(-len(steps) // POINTS_LIMIT)
    return LearningCurve(one_line(entry["name"][:NAME_LIMIT]), tuple(steps[::stride]), tuple(values[::stride]))


def _numbers(values: Json) -> list[float]:
    """Empty unless every entry is a finite number."""
    if not isinstance(values, list) or any(type(each) not in (int, float) for each in values):
        return []
    try:
        numbers = [float(each) for each in values]
    except OverflowError:
        return []
    return numbers if all(map(math.isfinite, numbers)) else []
