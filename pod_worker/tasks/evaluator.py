"""Scores a node's predictions with the hidden labels, outside the sandbox.

Only the declared file is read. Whatever the program printed, computed or patched has no effect on a score.
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.research.evaluation import NodeScore, RefusalKind
from pod_worker.tasks.predictions import FILE, decode_predictions, file_limit_bytes
from pod_worker.tasks.prepare import LABELS_FILE, SPLIT_FILE, PreparedTask
from pod_worker.tasks.result_files import read_result, refuse
from pod_worker.tasks.scoring import SCORERS
from pod_worker.tasks.task import Task

SUM_TOLERANCE = 1e-3  # of the probabilities of a row


class PredictionsEvaluator:
    """Implements the search's evaluator port for tasks with labels.

    Safe for several threads.
    """

    def __init__(self, prepared: PreparedTask) -> None:
        """Raises RunError(USER_ERROR) where the hidden labels were changed."""
        self._task = prepared.task
        self._classes = len(prepared.facts["classes"])
        self._labels = _read_labels(prepared)
        self._scorer = SCORERS[prepared.task.metric.name]

    def score(self, folder: Path) -> NodeScore:
        """The scores of `out/predictions.npz` in a node's folder.

        Raises ResultRefusedError.
        """
        shapes = {name: self._shape(len(labels)) for name, labels in self._labels.items()}
        predictions = decode_predictions(read_result(folder, FILE, file_limit_bytes(shapes)), shapes)
        for name, values in predictions.items():
            _check_values(self._task, self._classes, name, values)
        self._check_forgery(predictions["hidden"])
        scores = {name: self._score(name, values) for name, values in predictions.items()}
        return NodeScore(search=scores["search"], hidden=scores["hidden"])

    def _shape(self, rows: int) -> tuple[int, ...]:
        return (rows, self._classes) if self._task.predicts_probabilities else (rows,)

    def _score(self, name: str, values: NDArray[Any]) -> float:
        with np.errstate(all="ignore"):
            score = self._scorer(self._labels[name], values)
        if not np.isfinite(score):
            refuse(RefusalKind.NOT_FINITE, f"the {self._task.metric.name} of array {name!r} is not finite")
        return score

    def _check_forgery(self, hidden: NDArray[Any]) -> None:
        """A model of a measured number is never exact on every row."""
        if self._task.kind == "regression" and np.array_equal(hidden, self._labels["hidden"]):
            refuse(RefusalKind.FORGED, "every hidden prediction equals its label exactly")


def _read_labels(prepared: PreparedTask) -> dict[str, NDArray[Any]]:
    content = (prepared.hidden / LABELS_FILE).read_bytes()
    record = json.loads((prepared.hidden / SPLIT_FILE).read_text())
    if hashlib.sha256(content).hexdigest() != record["files"][f"hidden/{LABELS_FILE}"]:
        raise RunError(
            FailureCode.USER_ERROR,
            f"{prepared.hidden / LABELS_FILE} was changed after the run started. Start a new run.",
        )
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in ("search", "hidden")}


def _check_values(task: Task, classes: int, name: str, values: NDArray[Any]) -> None:
    if task.kind == "regression":
        return
    if task.predicts_probabilities:
        if (values < 0).any() or (np.abs(values.sum(axis=1) - 1.0) > SUM_TOLERANCE).any():
            refuse(RefusalKind.SCHEMA, f"rows of {name!r} must be probabilities: at least 0, with sum 1")
    elif (values != np.floor(values)).any() or (values < 0).any() or (values >= classes).any():
        refuse(RefusalKind.SCHEMA, f"array {name!r} must hold class numbers from 0 to {classes - 1}")
