"""Loads a user's data file: `.npz` with arrays, or `.csv` with a header."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.tasks.task import LabeledData, TaskKind

FEATURES = "x"
CLASSES_LIMIT = 1_000


def load_user_data(path: Path, target: str, kind: TaskKind) -> LabeledData:
    """Features as numbers, labels as class positions or numbers.

    Raises RunError(INVALID_INPUT) that names the file and what to change.
    """
    x, y = _read_npz(path, target) if path.suffix == ".npz" else _read_csv(path, target)
    if len(x) != len(y):
        _refuse(path, f"{len(x)} rows of features and {len(y)} labels")
    if not np.isfinite(x).all():
        _refuse(path, "features that are NaN or infinite; fill or remove those rows")
    if kind == "regression":
        return LabeledData(x, _numbers(path, target, y))
    classes, positions = np.unique(y, return_inverse=True)
    if not 2 <= len(classes) <= CLASSES_LIMIT:
        _refuse(path, f"{len(classes)} classes in {target!r}; 2 to {CLASSES_LIMIT} are accepted")
    return LabeledData(x, positions.astype(np.int64), tuple(str(each) for each in classes))


def _read_npz(path: Path, target: str) -> tuple[NDArray[np.float32], NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if missing := {FEATURES, target} - set(arrays.files):
                _refuse(
                    path, f"no array {' and no array '.join(sorted(missing))} (it has {', '.join(arrays.files)})"
                )
            x, y = arrays[FEATURES], arrays[target]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        _refuse(path, f"content that numpy cannot read: {error}")
    if x.ndim < 2 or x.dtype.kind not in "fiub" or y.ndim != 1:
        _refuse(path, f"{FEATURES} of shape {x.shape} and type {x.dtype}, and {target} of shape {y.shape}; "
                      "numbers of shape (rows, features) and labels of shape (rows,) are needed")  # fmt: skip
    return np.asarray(x.reshape(len(x), -1), dtype=np.float32), y


def _read_csv(path: Path, target: str) -> tuple[NDArray[np.float32], NDArray[Any]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        _refuse(path, f"content that is not CSV: {error}")
    header, rows = (rows[0], [row for row in rows[1:] if row]) if rows else ([], [])
    if target not in header:
        _refuse(path, f"no column {target!r} (it has {', '.join(header[:20])})")
    column = header.index(target)
    features = []
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            _refuse(path, f"{len(row)} fields in line {number}; the header has {len(header)}")
        try:
            features.append([float(value) for position, value in enumerate(row) if position != column])
        except ValueError as error:
            _refuse(path, f"a feature in line {number} that is not a number ({error}); encode it as one")
    return np.array(features, dtype=np.float32).reshape(len(rows), -1), np.array([row[column] for row in rows])


def _numbers(path: Path, target: str, y: NDArray[Any]) -> NDArray[np.float64]:
    try:
        numbers = y.astype(np.float64)
    except ValueError as error:
        _refuse(path, f"labels in {target!r} that are not numbers ({error})")
    if not np.isfinite(numbers).all():
        _refuse(path, f"labels in {target!r} that are NaN or infinite")
    return numbers


def _refuse(path: Path, problem: str) -> NoReturn:
    raise RunError(FailureCode.INVALID_INPUT, f"the data file {path} has {problem}.")
