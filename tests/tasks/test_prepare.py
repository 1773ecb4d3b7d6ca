"""The split of a task: fixed by its seed, hashed, written once, verified, and closed where labels are."""

from __future__ import annotations

import json
import stat
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.tasks.catalogue import find_task, list_tasks
from pod_worker.tasks.prepare import PreparedTask, prepare_task
from pod_worker.tasks.splits import draw_perturbation, split_rows
from pod_worker.tasks.task import LabeledData, SplitFractions

SEED = 7


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


@pytest.mark.parametrize("task", list_tasks(), ids=lambda task: task.name)
def test_every_shipped_task_can_be_prepared(task, tmp_path) -> None:
    prepared = prepare_task(task, SEED, tmp_path / "task")
    train, search = arrays(prepared.public / "train.npz"), arrays(prepared.public / "search.npz")
    inputs, labels = arrays(prepared.public / "hidden_inputs.npz"), arrays(prepared.hidden / "labels.npz")
    rows = prepared.facts["rows"]
    assert (len(train["y"]), len(search["x"]), len(inputs["x"])) == (rows["train"], rows["search"], rows["hidden"])
    assert train["x"].shape[1] == prepared.facts["features"]
    assert list(inputs) == ["x"]
    assert np.array_equal(labels["search"], search["y"])
    assert len(labels["hidden"]) == rows["hidden"]
    if task.kind == "classification":
        assert set(np.unique(train["y"])) == set(range(len(prepared.facts["classes"])))


def test_rows_of_the_three_parts_are_disjoint_and_every_class_has_its_share() -> None:
    y = np.repeat([0, 1, 2], [50, 100, 200])
    split = split_rows(
        LabeledData(np.zeros((350, 2), np.float32), y, ("a", "b", "c")), SplitFractions(), "classification", 1
    )
    together = np.concatenate([split.train, split.search, split.hidden])
    assert sorted(together.tolist()) == list(range(350))
    assert np.bincount(y[split.hidden]).tolist() == [10, 20, 40]


def test_the_same_seed_gives_the_same_files_and_another_seed_others(tmp_path) -> None:
    task = find_task("two_moons")
    first, again, other = (
        prepare_task(task, seed, tmp_path / name) for seed, name in ((1, "a"), (1, "b"), (2, "c"))
    )
    assert first.digest == again.digest != other.digest
    for name in ("public/train.npz", "public/hidden_inputs.npz", "public/task.json", "hidden/labels.npz"):
        assert (first.root / name).read_bytes() == (again.root / name).read_bytes()


def test_a_second_call_changes_nothing(tmp_path) -> None:
    task = find_task("two_moons")
    first = prepare_task(task, SEED, tmp_path / "task")
    times = {path: path.stat().st_mtime_ns for path in first.root.rglob("*")}
    again = prepare_task(task, SEED, tmp_path / "task")
    assert again.digest == first.digest
    assert again.facts == first.facts
    assert {path: path.stat().st_mtime_ns for path in first.root.rglob("*")} == times


@pytest.mark.parametrize(
    "name", ["public/train.npz", "public/task.json", "hidden/labels.npz", "hidden/split.json"]
)
def test_a_changed_file_is_refused_by_its_name(name, tmp_path) -> None:
    prepared = prepare_task(find_task("two_moons"), SEED, tmp_path / "task")
    path = prepared.root / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RunError, match=rf"{name} was changed or removed.*Start a new run") as caught:
        prepare_task(find_task("two_moons"), SEED, prepared.root)
    assert caught.value.code is FailureCode.USER_ERROR


def test_another_task_or_seed_in_the_folder_is_refused(tmp_path) -> None:
    prepare_task(find_task("two_moons"), SEED, tmp_path / "task")
    with pytest.raises(RunError, match=r"prepared with another seed \(task 'two_moons'\)"):
        prepare_task(find_task("two_moons"), SEED + 1, tmp_path / "task")
    with pytest.raises(RunError, match=r"another task and another seed"):
        prepare_task(find_task("sequences"), SEED, tmp_path / "task")


def test_what_a_killed_process_left_is_written_again(tmp_path) -> None:
    first = prepare_task(find_task("two_moons"), SEED, tmp_path / "task")
    (first.hidden / "split.json").unlink()
    (first.public / "train.npz").write_bytes(b"half")
    assert prepare_task(find_task("two_moons"), SEED, tmp_path / "task").digest == first.digest


def test_hidden_files_belong_to_their_owner_alone(moons: PreparedTask) -> None:
    assert stat.S_IMODE(moons.hidden.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in moons.hidden.iterdir()} == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in moons.public.iterdir()} == {0o644}


def test_public_files_tell_neither_the_seed_nor_hidden_labels(tmp_path) -> None:
    seed = 918_273_645
    prepared = prepare_task(find_task("two_moons"), seed, tmp_path / "task")
    text = (prepared.public / "task.json").read_text()
    assert str(seed) not in text
    assert "seed" not in json.loads(text)
    assert sorted(path.name for path in prepared.public.iterdir()) == [
        "hidden_inputs.npz", "search.npz", "task.json", "train.npz"
    ]  # fmt: skip


def test_rows_of_public_data_cannot_be_looked_up_in_another_copy(tmp_path) -> None:
    task = find_task("digits")
    original = task.load(0)
    prepared = prepare_task(task, SEED, tmp_path / "task")
    hidden = arrays(prepared.public / "hidden_inputs.npz")["x"]
    labels = arrays(prepared.hidden / "labels.npz")["hidden"]
    nearest = [original.y[np.argmin(((original.x - row) ** 2).sum(axis=1))] for row in hidden]
    assert np.mean(nearest == labels) < 0.3
    restored = draw_perturbation(64, SEED).invert(
        hidden
    )  # with the seed it can be inverted: so the seed stays private
    nearest = [original.y[np.argmin(((original.x - row) ** 2).sum(axis=1))] for row in restored]
    assert np.mean(nearest == labels) == 1.0


def test_copies_of_the_labels_are_closed() -> None:
    data = Path(find_spec("sklearn").origin).parent / "datasets" / "data"
    for task in list_tasks():
        paths = task.private_paths()
        assert paths, task.name
        assert all(path.exists() for path in paths)
        assert not task.is_perturbed or paths == (data,)
    prepared = PreparedTask(find_task("digits"), Path("root"), {}, "")
    assert prepared.denied_paths == (Path("root/hidden"), data)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.arange(20) % 2, r"the search part would have 4 rows"),
        (np.zeros(100, np.int64), r"every label of the train part is the same"),
        (np.array([0, 1] * 60 + [2]), r"no training row has the class c"),
    ],
)
def test_data_that_cannot_be_split_is_refused(y, message) -> None:
    data = LabeledData(np.zeros((len(y), 2), np.float32), y, ("a", "b", "c"))
    fractions = SplitFractions(0.4, 0.2, 0.4) if len(y) == 121 else SplitFractions()
    with pytest.raises(RunError, match=message):
        split_rows(data, fractions, "classification", 1)


def test_an_unknown_task_is_refused_with_the_names() -> None:
    with pytest.raises(RunError, match=r"no task 'mnist'.*digits, wine"):
        find_task("mnist")


def test_missing_data_is_refused_with_the_fix(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("pod_worker.tasks.packaged_data.find_spec", lambda name: None)
    with pytest.raises(RunError, match=r"scikit-learn, which is missing. Fix: make install") as caught:
        prepare_task(find_task("digits"), 1, tmp_path / "task")
    assert caught.value.code is FailureCode.ENVIRONMENT
