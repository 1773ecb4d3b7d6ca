"""A user's task.yaml: every problem is listed with its fix before anything is queued."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.tasks.catalogue import find_task
from pod_worker.tasks.evaluator import PredictionsEvaluator
from pod_worker.tasks.prepare import prepare_task

GOOD = {
    "name": "my-task",
    "title": "My task",
    "description": "Tell a from b.",
    "metric": "accuracy",
    "kind": "classification",
    "data": "rows.csv",
    "target": "label",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    lines = [f"{first:.4f},{'ab'[int(first > 0)]},{second:.4f}" for first, second in rng.normal(size=(200, 2))]
    path = tmp_path / "task"
    path.mkdir()
    (path / "rows.csv").write_text("left,label,right\n" + "\n".join(lines) + "\n")
    write(path)
    return path


def write(folder: Path, **changes) -> None:
    fields = {name: value for name, value in {**GOOD, **changes}.items() if value is not None}
    (folder / "task.yaml").write_text(yaml.safe_dump(fields))


def test_a_csv_is_split_and_scored(folder, node) -> None:
    task = find_task(str(folder))
    assert find_task(str(folder / "task.yaml")).name == task.name == "my-task"
    prepared = prepare_task(task, 1, folder.parent / "run")
    assert prepared.facts["classes"] == ["a", "b"]
    assert prepared.facts["features"] == 2
    assert prepared.denied_paths == (prepared.hidden, folder.resolve())
    with (
        np.load(prepared.public / "hidden_inputs.npz") as hidden,
        np.load(prepared.public / "search.npz") as search,
    ):
        guesses = {"search": search["x"][:, 0] > 0, "hidden": hidden["x"][:, 0] > 0}
    np.savez(node / "out" / "predictions.npz", **guesses)
    assert PredictionsEvaluator(prepared).score(node).hidden == 1.0


def test_arrays_of_more_dimensions_are_rows_of_features(folder) -> None:
    np.savez(folder / "images.npz", x=np.zeros((100, 4, 5)), y=np.arange(100) / 3)
    write(folder, data="images.npz", target=None, kind="regression", metric="mae",
          split={"train": 0.5, "search": 0.25, "hidden": 0.25})  # fmt: skip
    prepared = prepare_task(find_task(str(folder)), 1, folder.parent / "run")
    assert prepared.facts["features"] == 20
    assert prepared.facts["rows"] == {"train": 50, "search": 25, "hidden": 25}
    assert prepared.task.metric.direction == "lower"


def test_a_task_without_an_evaluator_names_any_metric(folder) -> None:
    write(folder, evaluator="none", metric={"name": "speedup", "direction": "higher", "unit": "x"})
    task = find_task(str(folder))
    assert not task.has_evaluator
    assert (task.metric.name, task.metric.direction, task.metric.unit) == ("speedup", "higher", "x")


def test_every_problem_is_listed_at_once(folder) -> None:
    fields = {"name": "My Task", "metric": {"name": "speed", "direction": "up"}, "kind": "cluster", "data": "../x.csv",
              "split": {"train": 0.9, "search": 0.2, "hidden": 0.2}, "colour": "red", "evaluator": "me"}  # fmt: skip
    (folder / "task.yaml").write_text(yaml.safe_dump(fields))
    with pytest.raises(RunError) as caught:
        find_task(str(folder))
    assert caught.value.code is FailureCode.INVALID_INPUT
    for part in (
        "unknown fields: colour", "'name' must have", "'title' is missing", "'description' is missing",
        "'kind' must be classification or regression", "'metric' of a classification task must be one of accuracy",
        "'metric.direction' must be higher or lower", "add up to 1.3", "'data' must lie in the task's folder",
        "'evaluator' must be predictions",
    ):  # fmt: skip
        assert part in caught.value.message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "rmse"}, "'metric' of a classification task must be one of"),
        ({"metric": {"name": "accuracy", "direction": "lower"}}, "'metric.direction' of accuracy is higher"),
        ({"metric": None}, "'metric' of a classification task must be one of"),
        ({"metric": {"name": "accuracy", "goal": 1}}, "'metric' has unknown fields: goal"),
        ({"metric": {"name": "accuracy", "unit": 7}}, "'metric.unit' must be a text"),
        ({"data": "rows.parquet"}, "'data' must name an .npz or .csv file"),
        ({"data": "absent.csv"}, "the data file 'absent.csv' is not in the folder"),
        ({"data": 7}, "'data' must be a text"),
        ({"split": [0.6, 0.2, 0.2]}, "'split' must have train, search and hidden"),
        ({"split": {"train": True, "search": 0.2, "hidden": 0.2}}, "'split' must have train, search and hidden"),
        ({"split": {"train": 1.0, "search": 0.0, "hidden": 0.0}}, "each between 0 and 1"),
        ({"title": "x" * 5000}, "'title' has 5000 characters"),
    ],
)
def test_a_wrong_field_is_refused(changes, message, folder) -> None:
    write(folder, **changes)
    with pytest.raises(RunError) as caught:
        find_task(str(folder))
    assert message in caught.value.message


@pytest.mark.parametrize("text", ["a: [", "- 1", "", "x" * 70_000, "\x00"])
def test_a_file_that_holds_no_fields_is_refused(text, folder) -> None:
    (folder / "task.yaml").write_text(text)
    with pytest.raises(RunError, match=r"task\.yaml (is not YAML|must hold fields|has more than)"):
        find_task(str(folder))


def test_a_folder_without_a_description_is_refused(tmp_path) -> None:
    with pytest.raises(RunError, match=r"task\.yaml cannot be read: No such file"):
        find_task(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("left,label\n1,a\n2\n", "1 fields in line 3; the header has 2"),
        ("left,label\none,a\n", "a feature in line 2 that is not a number"),
        ("left,right\n1,2\n", r"no column 'label' \(it has left, right\)"),
        ("", "no column 'label'"),
        ("left,label\n" + "1,a\n" * 50, "1 classes in 'label'"),
        ("left,label\nnan,a\n1,b\n", "features that are NaN"),
    ],
)
def test_a_csv_that_cannot_be_used_is_refused(content, message, folder) -> None:
    (folder / "rows.csv").write_text(content)
    with pytest.raises(RunError, match=message):
        find_task(str(folder)).load(1)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((5, 2))}, r"no array y \(it has x\)"),
        ({"x": np.zeros(5), "y": np.zeros(5)}, r"shape \(5,\) and type float64"),
        ({"x": np.zeros((5, 2)), "y": np.zeros(4)}, "5 rows of features and 4 labels"),
        ({"x": np.zeros((5, 2)), "y": np.full(5, np.nan)}, "labels in 'y' that are NaN"),
        ({"x": np.zeros((5, 2)), "y": np.array(list("abcde"))}, "labels in 'y' that are not numbers"),
        ({"x": np.zeros((5, 2)), "y": np.array([{}] * 5)}, "content that numpy cannot read"),
    ],
)
def test_arrays_that_cannot_be_used_are_refused(arrays, message, folder) -> None:
    np.savez(folder / "rows.npz", **arrays)
    write(folder, data="rows.npz", target="y", kind="regression", metric="rmse")
    with pytest.raises(RunError, match=message):
        find_task(str(folder)).load(1)


def test_tasks_are_listed_without_numpy() -> None:
    program = (
        "import sys\nfrom pod_worker.tasks.catalogue import find_task, list_tasks\n"
        "assert len(list_tasks()) >= 7 and find_task('digits')\nassert 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])
