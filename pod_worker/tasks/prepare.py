"""The files of a task in a run: public ones, hidden labels, digests of both.

    public/train.npz, search.npz   x and y
    public/hidden_inputs.npz       x only
    public/task.json               what a program and a prompt are given
    hidden/labels.npz              y of the search and hidden rows; the folder is 0700, the file 0600
    hidden/split.json              digests of every file, array and row list; written last

A second call verifies the files. A changed one is refused by its name.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.run import Json
from pod_worker.tasks.splits import (
    NOISE,
    SCALES,
    SplitRows,
    array_digest,
    draw_perturbation,
    split_rows,
)
from pod_worker.tasks.task import LabeledData, Task

SPLIT_FILE = "split.json"
LABELS_FILE = "labels.npz"
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class PreparedTask:
    task: Task
    root: Path
    facts: dict[str, Json]  # of the task, for prompts and task.json
    digest: str  # of split.json: equal digests mean equal data and split

    @property
    def public(self) -> Path:
        return self.root / "public"

    @property
    def hidden(self) -> Path:
        return self.root / "hidden"

    @property
    def denied_paths(self) -> tuple[Path, ...]:
        """What the sandbox closes: the hidden folder, and other copies of the labels."""
        return (self.hidden, *self.task.private_paths())


def prepare_task(task: Task, seed: int, root: Path) -> PreparedTask:
    """Write the task's files, or verify those that are there.

    Keep the seed from programs: who knows it and the data set knows the hidden rows.
    Raises RunError: INVALID_INPUT for data that cannot be split, ENVIRONMENT for a missing package,
    USER_ERROR for files that were changed or belong to another task or seed.
    """
    split_file = root / "hidden" / SPLIT_FILE
    if not split_file.is_file():
        _write_all(task, seed, root)
    record = _read_record(split_file)
    expected = {"task": task.name, "seed": _seed_digest(task, seed)}
    if wrong := [name for name, value in expected.items() if record.get(name) != value]:
        raise RunError(
            FailureCode.USER_ERROR,
            f"{root} was prepared with another {' and another '.join(wrong)} (task {record.get('task')!r}). "
            "Start a new run, or remove the folder.",
        )
    _verify_files(record, root)
    facts = json.loads((root / "public" / "task.json").read_text())
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
    return PreparedTask(task, root, facts, digest)


def _write_all(task: Task, seed: int, root: Path) -> None:
    data = task.load(seed)
    rows = split_rows(data, task.split, task.kind, seed)
    x = draw_perturbation(data.x.shape[1], seed).apply(data.x, seed) if task.is_perturbed else data.x
    parts: dict[str, Arrays] = {
        "public/train.npz": {"x": x[rows.train], "y": data.y[rows.train]},
        "public/search.npz": {"x": x[rows.search], "y": data.y[rows.search]},
        "public/hidden_inputs.npz": {"x": x[rows.hidden]},
        f"hidden/{LABELS_FILE}": {"search": data.y[rows.search], "hidden": data.y[rows.hidden]},
    }
    _make_folders(root)
    files = {name: _write(root / name, _npz(arrays)) for name, arrays in parts.items()}
    facts = task_facts(task, data, rows)
    files["public/task.json"] = _write(root / "public" / "task.json", json.dumps(facts, indent=1).encode())
    record: dict[str, Json] = {
        "task": task.name,
        "seed": _seed_digest(task, seed),
        "files": files,
        "arrays": {
            f"{name}:{key}": array_digest(array) for name, arrays in parts.items() for key, array in arrays.items()
        },
        "rows": {name: array_digest(getattr(rows, name)) for name in ("train", "search", "hidden")},
    }
    _write(root / "hidden" / SPLIT_FILE, json.dumps(record, indent=1).encode())


def task_facts(task: Task, data: LabeledData, rows: SplitRows) -> dict[str, Json]:
    return {
        "name": task.name,
        "title": task.title,
        "description": task.description,
        "kind": task.kind,
        "metric": {"name": task.metric.name, "direction": task.metric.direction, "unit": task.metric.unit},
        "files": {
            "train.npz": "x (rows, features) and y",
            "search.npz": "x and y; scores shown during the search are computed on it",
            "hidden_inputs.npz": "x; the labels stay with the evaluator",
        },
        "rows": {"train": len(rows.train), "search": len(rows.search), "hidden": len(rows.hidden)},
        "features": int(data.x.shape[1]),
        "classes": list(data.classes),
        "predictions": _predictions_text(task, len(data.classes)),
        "perturbation": {"columns": "permuted", "scales": list(SCALES), "noise": NOISE}
        if task.is_perturbed
        else None,
        "is_self_reported": not task.has_evaluator,
    }


def _predictions_text(task: Task, classes: int) -> str:
    if task.predicts_probabilities:
        return f"probabilities of the {classes} classes, shape (rows, {classes})"
    return f"class numbers 0 to {classes - 1}" if task.kind == "classification" else "numbers"


def _make_folders(root: Path) -> None:
    for name, mode in (("public", 0o755), ("hidden", 0o700)):
        shutil.rmtree(root / name, ignore_errors=True)  # left by a process that was killed here
        (root / name).mkdir(parents=True)
        (root / name).chmod(mode)


def _npz(arrays: Arrays) -> bytes:
    """As numpy.savez writes it, but equal arrays give equal bytes: no time is written."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue())
    return buffer.getvalue()


def _write(path: Path, content: bytes) -> str:
    """Write durably; returns the SHA-256."""
    mode = 0o600 if path.parent.name == "hidden" else 0o644
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(content).hexdigest()


def _seed_digest(task: Task, seed: int) -> str:
    fractions = (task.split.train, task.split.search, task.split.hidden)
    return hashlib.sha256(f"{task.name} {seed} {fractions}".encode()).hexdigest()


def _read_record(path: Path) -> dict[str, Json]:
    try:
        record = json.loads(path.read_text())
    except ValueError:
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("files"), dict):
        raise _changed(path)
    return record


def _verify_files(record: dict[str, Json], root: Path) -> None:
    for name, expected in record["files"].items():
        path = root / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise _changed(path)


def _changed(path: Path) -> RunError:
    return RunError(
        FailureCode.USER_ERROR,
        f"{path} was changed or removed after the run started; scores before and after would not compare. "
        "Start a new run.",
    )
