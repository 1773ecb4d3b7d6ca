"""What a scripted program does, as data: the programs differ by their recipes.

A program carries its recipe in a comment, so the next operation starts from the program itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from pod_worker.core.run import Json

MARK = "# recipe: "

Kind = Literal["classification", "regression"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    model: str  # a key of models.MODELS
    settings: Mapping[str, float] = field(default_factory=dict)  # of the model, by name
    scale: bool = True  # columns get mean 0 and deviation 1
    columns: tuple[str, ...] = ()  # added or changed: squares, components, spectrum
    members: int = 1  # fits whose predictions are averaged
    noise: float = 0.0  # deviation of the noise of copied training rows
    rows: float = 1.0  # part of the training rows
    dropped: tuple[int, ...] = ()  # columns left out
    bug: str = ""  # a key of bugs.BUGS: the mistake in the program

    def line(self) -> str:
        return MARK + json.dumps(asdict(self), sort_keys=True)

    def tuned(self, **settings: float) -> Recipe:
        return replace(self, settings={**self.settings, **settings})


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """What the facts of a request say about the task."""

    title: str
    kind: Kind
    metric: str
    features: int
    is_self_reported: bool

    @property
    def has_probabilities(self) -> bool:
        return self.metric == "log_loss"


def read_task(facts: Mapping[str, Json]) -> TaskView:
    task = facts.get("task") or {}
    metric = task.get("metric") or {}
    kind: Kind = "regression" if task.get("kind") == "regression" else "classification"
    return TaskView(
        title=str(task.get("title") or task.get("name") or "experiment"),
        kind=kind,
        metric=str(metric.get("name") or ("rmse" if kind == "regression" else "accuracy")),
        features=int(task.get("features") or 1),
        is_self_reported=bool(task.get("is_self_reported")),
    )


def read_recipe(code: str) -> Recipe | None:
    """The recipe in a program's comment; None for a program of another author."""
    line = next((line for line in code.splitlines() if line.startswith(MARK)), None)
    try:
        value = json.loads(line.removeprefix(MARK)) if line else None
        if not isinstance(value, dict):
            return None
        return Recipe(**{**value, "columns": tuple(value["columns"]), "dropped": tuple(value["dropped"])})
    except (ValueError, TypeError, KeyError):
        return None
