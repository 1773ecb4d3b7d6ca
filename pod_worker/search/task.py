"""What the search knows about its task."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pod_worker.core.research.measure import Metric
from pod_worker.core.run import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchTask:
    """A task as programs and prompts see it."""

    metric: Metric
    folder: Path  # TASK_DIR: public files
    facts: dict[str, Json]  # name, title, description, metric, files, rows, features, classes, kind
    readable: tuple[Path, ...] = ()  # further files that programs may read
    denied: tuple[Path, ...] = ()  # hidden labels and the like
