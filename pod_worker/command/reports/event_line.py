"""One line of a job's events file, checked."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

from pod_worker.core.payload import LOG_MESSAGE_BYTES, StageMetric

LEVELS = ("debug", "info", "warn", "warning", "error")
NAME_CHARACTERS = 200
STEP_LIMIT = 2**63


class EventLineError(ValueError):
    """Why a line cannot be recorded."""


@dataclass(frozen=True, slots=True)
class ProgressLine:
    fraction: float


@dataclass(frozen=True, slots=True)
class CheckpointLine:
    """The program asks for a snapshot of its checkpoints."""


@dataclass(frozen=True, slots=True)
class ReportedText:
    message: str
    level: str


ReportedEvent: TypeAlias = StageMetric | ProgressLine | ReportedText | CheckpointLine


def parse_line(line: bytes, stage: str) -> ReportedEvent:
    """Raises EventLineError with the cause."""
    try:
        found = json.loads(line, parse_constant=_refuse_constant)
    except EventLineError:
        raise
    except (ValueError, RecursionError):
        raise EventLineError("it is no JSON object") from None
    if isinstance(found, dict):
        if "metric" in found:
            return checked_metric(found, stage)
        if "progress" in found:
            return ProgressLine(_progress(found["progress"]))
        if "log" in found:
            return _text(found)
        if found.get("checkpoint") is True:
            return CheckpointLine()
    raise EventLineError("it is no JSON object with metric, progress, log or checkpoint")


def _refuse_constant(word: str) -> NoReturn:
    raise EventLineError(f"{word} is no JSON number; leave the value out")


def checked_metric(found: dict[str, Any], stage: str) -> StageMetric:
    """A metric of the fields that a line has. Raises EventLineError."""
    name, step, epoch, unit = (found.get(key) for key in ("metric", "step", "epoch", "unit"))
    if not isinstance(name, str) or not 0 < len(name) <= NAME_CHARACTERS:
        raise EventLineError(f"metric must be a text of 1 to {NAME_CHARACTERS} characters")
    value = _number(found.get("value"), f"the value of {name!r}")
    if step is not None and (type(step) is not int or abs(step) >= STEP_LIMIT):
        raise EventLineError(f"the step of {name!r} must be an integer of 64 bits")
    if unit is not None and not isinstance(unit, str):
        raise EventLineError(f"the unit of {name!r} must be a text")
    passed = None if epoch is None else _number(epoch, f"the epoch of {name!r}")
    return StageMetric(stage=stage, name=name, value=value, step=step, epoch=passed, unit=unit)


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise EventLineError(f"{what} must be a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if math.isnan(number):
        raise EventLineError(f"{what} is NaN; leave the value out")
    if not math.isfinite(number):
        raise EventLineError(f"{what} is too large for a number")
    return number


def _progress(value: Any) -> float:
    fraction = _number(value, "progress")
    if not 0 <= fraction <= 1:
        raise EventLineError("progress must be from 0 to 1")
    return fraction


def _text(found: dict[str, Any]) -> ReportedText:
    message, level = found["log"], found.get("level", "info")
    if not isinstance(message, str) or level not in LEVELS:
        raise EventLineError(f"log must be a text, and level one of {', '.join(LEVELS)}")
    return ReportedText(message[:LOG_MESSAGE_BYTES], level)
