"""A user's task: a folder with `task.yaml` and a data file.

docs/tasks.md has the reference.

Reading the description needs no numpy, so a command can refuse a wrong one before anything is queued.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import yaml

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.research.measure import Metric
from pod_worker.core.run import Json
from pod_worker.tasks.task import KIND_METRICS, METRICS, LabeledData, SplitFractions, Task, TaskKind

FILE_LIMIT_BYTES = 64 * 1024
TEXT_LIMIT = 4_000
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_FIELDS = {"name", "title", "description", "metric", "kind", "data", "target", "split", "evaluator"}


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads fields and collects every problem."""

    fields: dict[str, Json]
    problems: list[str]

    def text(self, name: str, default: str = "") -> str:
        value = self.fields.get(name, default)
        if not isinstance(value, str) or not value.strip():
            self.problems.append(f"{name!r} is missing" if not value else f"{name!r} must be a text")
            return ""
        if len(value) > TEXT_LIMIT:
            self.problems.append(f"{name!r} has {len(value)} characters; at most {TEXT_LIMIT} are accepted")
        return value.strip()


def read_user_task(folder: Path) -> Task:
    """The task in a folder.

    Raises RunError(INVALID_INPUT) that lists every problem of task.yaml; `load` checks the data file's content.
    """
    path = folder / "task.yaml"
    fields = _read_yaml(path)
    reader = _Reader(fields, [])
    if unknown := sorted(str(name) for name in fields.keys() - _FIELDS):
        reader.problems.append(f"unknown fields: {', '.join(unknown)} (known: {', '.join(sorted(_FIELDS))})")
    name = reader.text("name")
    if name and not _NAME.fullmatch(name):
        reader.problems.append("'name' must have 1 to 63 of a-z, 0-9, - and _, and begin with a letter or digit")
    title, description = reader.text("title"), reader.text("description")
    kind = _kind(reader)
    has_evaluator = _has_evaluator(reader)
    metric = _metric(reader, kind, has_evaluator)
    split = _split(reader)
    data = _data_path(reader, folder)
    target = reader.text("target", "y")
    if reader.problems:
        raise RunError(FailureCode.INVALID_INPUT, f"{path} cannot be used: " + "; ".join(reader.problems))
    return Task(
        name=name,
        title=title,
        description=description,
        metric=metric,
        kind=kind,
        load=lambda seed: _load(data, target, kind),
        split=split,
        private_paths=lambda: (folder.resolve(),),
        has_evaluator=has_evaluator,
    )


def _load(path: Path, target: str, kind: TaskKind) -> LabeledData:
    from pod_worker.tasks.user_data import load_user_data  # imports numpy

    return load_user_data(path, target, kind)


def _read_yaml(path: Path) -> dict[str, Json]:
    try:
        text = path.read_bytes()[: FILE_LIMIT_BYTES + 1]
    except OSError as error:
        raise RunError(FailureCode.INVALID_INPUT, f"{path} cannot be read: {error.strerror}") from None
    if len(text) > FILE_LIMIT_BYTES:
        raise RunError(FailureCode.INVALID_INPUT, f"{path} has more than {FILE_LIMIT_BYTES} bytes")
    try:
        fields = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise RunError(FailureCode.INVALID_INPUT, f"{path} is not YAML: {str(error)[:500]}") from None
    if not isinstance(fields, dict):
        raise RunError(FailureCode.INVALID_INPUT, f"{path} must hold fields such as 'name: my-task'")
    return fields


def _kind(reader: _Reader) -> TaskKind:
    kinds: tuple[TaskKind, ...] = get_args(TaskKind)
    kind = next((each for each in kinds if each == reader.fields.get("kind")), None)
    if kind is None:
        reader.problems.append(f"'kind' must be {' or '.join(kinds)}")
    return kind or "classification"


def _has_evaluator(reader: _Reader) -> bool:
    value = reader.fields.get("evaluator", "predictions")
    if value not in ("predictions", "none"):
        reader.problems.append(
            "'evaluator' must be predictions (we score them) or none (results are self-reported)"
        )
    return bool(value != "none")


def _metric(reader: _Reader, kind: TaskKind, has_evaluator: bool) -> Metric:
    value = reader.fields.get("metric")
    fields: dict[str, Json] = (
        {"name": value} if isinstance(value, str) else value if isinstance(value, dict) else {}
    )
    name = fields.get("name")
    known = METRICS.get(name) if isinstance(name, str) else None
    if unknown := sorted(str(each) for each in fields.keys() - {"name", "direction", "unit"}):
        reader.problems.append(f"'metric' has unknown fields: {', '.join(unknown)}")
    if has_evaluator and (known is None or known.name not in KIND_METRICS[kind]):
        reader.problems.append(f"'metric' of a {kind} task must be one of {', '.join(KIND_METRICS[kind])}; "
                               "another one needs 'evaluator: none'")  # fmt: skip
    elif not isinstance(name, str) or not _NAME.fullmatch(name.lower()):
        reader.problems.append("'metric' must have a name of letters, digits, - and _")
    direction = _direction(reader, fields.get("direction"), known)
    unit = fields.get("unit", known.unit if known else "")
    if not isinstance(unit, str) or len(unit) > 20:
        reader.problems.append("'metric.unit' must be a text of at most 20 characters")
    return Metric(str(name), direction, str(unit))


def _direction(reader: _Reader, value: Json, known: Metric | None) -> Literal["higher", "lower"]:
    if value is None and known is not None:
        return known.direction
    if value not in ("higher", "lower"):
        reader.problems.append("'metric.direction' must be higher or lower: which values are better")
    elif known is not None and value != known.direction:
        reader.problems.append(f"'metric.direction' of {known.name} is {known.direction}")
    return "lower" if value == "lower" else "higher"


def _split(reader: _Reader) -> SplitFractions:
    value = reader.fields.get("split", {"train": 0.6, "search": 0.2, "hidden": 0.2})
    names = ("train", "search", "hidden")
    parts: list[Json] = (
        [value.get(name) for name in names] if isinstance(value, dict) and value.keys() == set(names) else []
    )
    if not parts or any(type(each) not in (int, float) or not 0.0 < each < 1.0 for each in parts):
        reader.problems.append("'split' must have train, search and hidden, each between 0 and 1")
    elif not math.isclose(sum(parts), 1.0, abs_tol=1e-6):
        reader.problems.append(f"the parts of 'split' add up to {sum(parts):g}; they must add up to 1")
    else:
        return SplitFractions(*map(float, parts))
    return SplitFractions()


def _data_path(reader: _Reader, folder: Path) -> Path:
    name = reader.text("data")
    path = folder / name
    if name and path.suffix not in (".npz", ".csv"):
        reader.problems.append(f"'data' must name an .npz or .csv file, not {name!r}")
    elif name and not path.resolve().is_relative_to(folder.resolve()):
        reader.problems.append(f"'data' must lie in the task's folder, unlike {name!r}")
    elif name and not path.is_file():
        reader.problems.append(f"the data file {name!r} is not in the folder")
    return path
