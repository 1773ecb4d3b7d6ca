"""The tasks that ship, and how a task is found by its name or its folder.

No numpy is imported before data is loaded.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.tasks.task import METRICS, LabeledData, Task

TASK_FILE = "task.yaml"


def list_tasks() -> tuple[Task, ...]:
    """The shipped tasks, in the order of the documentation."""
    return _SHIPPED


def find_task(name_or_path: str) -> Task:
    """A shipped task by name, or a user's task by its folder.

    Raises RunError(INVALID_INPUT) that names the tasks there are, or every problem of task.yaml.
    """
    shipped = next((task for task in _SHIPPED if task.name == name_or_path), None)
    if shipped is not None:
        return shipped
    folder = Path(name_or_path)
    if folder.is_dir() or folder.name == TASK_FILE:
        from pod_worker.tasks.user_task import read_user_task  # reads YAML

        return read_user_task(folder.parent if folder.name == TASK_FILE else folder)
    names = ", ".join(task.name for task in _SHIPPED)
    raise RunError(
        FailureCode.INVALID_INPUT,
        f"there is no task {name_or_path!r}, and no folder of that name. Use one of {names}, "
        f"or a folder with a {TASK_FILE} (docs/tasks.md).",
    )


def _load(function: str, seed: int) -> LabeledData:
    data: LabeledData = getattr(import_module("pod_worker.tasks.packaged_data"), function)(seed)
    return data


def _sklearn_data() -> tuple[Path, ...]:
    folder: Path = import_module("pod_worker.tasks.packaged_data").sklearn_folder()
    return (folder,)


def _generators() -> tuple[Path, ...]:
    return (Path(__file__).resolve().parent,)


_SHIPPED = (
    Task(
        name="digits",
        title="Handwritten digits",
        description="Classify images of handwritten digits: 64 pixels, whose order and scale were changed.",
        metric=METRICS["accuracy"],
        kind="classification",
        load=lambda seed: _load("digits", seed),
        private_paths=_sklearn_data,
        is_perturbed=True,
    ),
    Task(
        name="wine",
        title="Wine cultivars",
        description="Tell three cultivars of wine apart by 13 chemical measurements; there are few rows.",
        metric=METRICS["macro_f1"],
        kind="classification",
        load=lambda seed: _load("wine", seed),
        private_paths=_sklearn_data,
        is_perturbed=True,
    ),
    Task(
        name="breast_cancer",
        title="Breast cancer diagnosis",
        description="Give the probability that a tumour is malignant or benign, from 30 measurements of nuclei.",
        metric=METRICS["log_loss"],
        kind="classification",
        load=lambda seed: _load("breast_cancer", seed),
        private_paths=_sklearn_data,
        is_perturbed=True,
    ),
    Task(
        name="diabetes",
        title="Diabetes progression",
        description="Predict the progression of diabetes after one year from 10 measurements of a patient.",
        metric=METRICS["rmse"],
        kind="regression",
        load=lambda seed: _load("diabetes", seed),
        private_paths=_sklearn_data,
        is_perturbed=True,
    ),
    Task(
        name="two_moons",
        title="Two moons with noise",
        description="Separate two noisy, interleaved half circles; four of the six columns carry no information.",
        metric=METRICS["accuracy"],
        kind="classification",
        load=lambda seed: _load("two_moons", seed),
        private_paths=_generators,
    ),
    Task(
        name="sparse_regression",
        title="Sparse regression",
        description="Predict a number from 60 columns; few of them, and one product of two, have an effect.",
        metric=METRICS["r2"],
        kind="regression",
        load=lambda seed: _load("sparse_regression", seed),
        private_paths=_generators,
    ),
    Task(
        name="sequences",
        title="Shapes of series",
        description="Classify noisy series of 48 steps by their shape: sine, square or sawtooth.",
        metric=METRICS["balanced_accuracy"],
        kind="classification",
        load=lambda seed: _load("sequences", seed),
        private_paths=_generators,
    ),
)
