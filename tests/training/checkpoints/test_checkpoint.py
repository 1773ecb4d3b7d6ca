from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy
import pytest
import torch

from pod_worker.core.failure import RunError
from pod_worker.core.payload import TrainingCheckpoint
from pod_worker.core.stage import ArtifactKind
from pod_worker.training.checkpoints import random_state
from pod_worker.training.checkpoints.checkpoint import (
    CheckpointError,
    EvalPoint,
    LossPoint,
    Progress,
    TrainingSnapshot,
    pack,
    unpack,
)
from pod_worker.training.checkpoints.checkpoint_store import CheckpointStore
from tests.training.context import FolderContext

FINGERPRINT = {"lr": "0.1", "data set": "abc"}


def snapshot(step: int = 3) -> TrainingSnapshot:
    progress = Progress(
        step=step, loss_sum=0.1 + 0.2, curve=[LossPoint(3, 1 / 3, 0.1, 2.0)], evals=[EvalPoint(0, 7.0)]
    )
    weights = {"a.weight": torch.arange(6.0).reshape(2, 3) / 7}
    return TrainingSnapshot(
        progress, FINGERPRINT, weights, {"a.weight/step": torch.tensor(3.0)}, random_state.capture()
    )


def test_what_was_packed_comes_back_to_the_bit(tmp_path: Path) -> None:
    before = snapshot()
    after = unpack(pack(before, tmp_path / "x.tar").path)
    assert msgspec.to_builtins(after.progress) == msgspec.to_builtins(before.progress)
    assert after.fingerprint == FINGERPRINT
    for part in ("adapter", "optimizer", "random"):
        one, other = getattr(before, part), getattr(after, part)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar"]


def test_the_same_state_packs_to_the_same_bytes(tmp_path: Path) -> None:
    before = snapshot()
    assert pack(before, tmp_path / "a.tar").sha256 == pack(before, tmp_path / "b.tar").sha256


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "absent"])
def test_damage_is_noticed(tmp_path: Path, damage: str) -> None:
    path = pack(snapshot(), tmp_path / "x.tar").path
    data = bytearray(path.read_bytes())
    place = data.index(numpy.float32(1 / 7).tobytes())
    match damage:
        case "cut":
            path.write_bytes(data[: len(data) // 2])
        case "flipped":
            data[place] ^= 1
            path.write_bytes(data)
        case "empty":
            path.write_bytes(b"")
        case "absent":
            path.unlink()
    with pytest.raises(CheckpointError):
        unpack(path)


def test_every_generator_goes_on_where_it_was() -> None:
    random_state.seed_all(5)
    random.gauss(0, 1)  # leaves half a pair in the generator
    numpy.random.standard_normal()
    state = random_state.capture()

    def draw() -> list[float]:
        return [random.gauss(0, 1), random.random(), numpy.random.standard_normal(), torch.rand(1).item()]

    first = draw()
    assert draw() != first
    random_state.restore(state)
    assert draw() == first


@pytest.fixture
def context(tmp_path: Path) -> FolderContext:
    return FolderContext(tmp_path, {})


def test_a_stored_checkpoint_is_announced_and_found_by_another_pod(context: FolderContext) -> None:
    entry = CheckpointStore(context).save(snapshot(3))
    assert [each.key for each in context.events if isinstance(each, TrainingCheckpoint)] == [entry.key]
    elsewhere = FolderContext(context.root, {}, attempt=2, pod="other")
    found = CheckpointStore(elsewhere).load_latest(FINGERPRINT)
    assert found
    assert found.progress.step == 3


def test_only_what_is_named_is_kept_on_disk_and_trusted(context: FolderContext) -> None:
    shelf = CheckpointStore(context, keep=2)
    for step in (1, 2, 3):
        shelf.save(snapshot(step))
    folder = context.work_dir / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000002.tar", "step-00000003.tar"]
    pack(snapshot(9), folder / "step-00000009.tar")
    (folder / "step-00000009.parts").mkdir()
    (context.root / "state.json").unlink()  # a reset forgot the stage
    assert CheckpointStore(context).load_latest(FINGERPRINT) is None
    assert list(folder.iterdir()) == []


def test_the_newest_and_the_best_are_kept(context: FolderContext) -> None:
    """By the held-out loss of the step itself; a loss of an earlier step is no measure of this checkpoint."""
    shelf = CheckpointStore(context, keep=2)
    losses = {1: 3.0, 2: 2.0, 3: None, 4: 2.5, 5: 2.0, 6: None}
    evals: list[EvalPoint] = []
    for step, loss in losses.items():
        evals += [EvalPoint(step, loss)] if loss is not None else []
        shelf.save(replace(snapshot(step), progress=Progress(step=step, evals=list(evals))))
    folder = context.work_dir / "checkpoints"
    on_disk = sorted(int(path.stem[5:]) for path in folder.iterdir())
    state = context.saved_state
    assert [state["step"], *(each["step"] for each in state["previous"])] == [6, 5, 2]
    assert on_disk == [2, 5, 6]
    assert [each["step"] for each in shelf.kept()] == [6, 5, 2]
    assert {artifact.role for artifact in context.artifacts.published} == {"rotated"}


def test_the_best_of_another_training_does_not_count(context: FolderContext) -> None:
    good = replace(snapshot(9), progress=Progress(step=9, evals=[EvalPoint(9, 0.1)]))
    CheckpointStore(context).save(good)
    shelf = CheckpointStore(context, keep=1)
    assert shelf.load_latest(FINGERPRINT | {"lr": "0.2"}) is None
    shelf.save(snapshot(3))
    assert [context.saved_state["step"], context.saved_state["previous"]] == [3, []]


def test_a_state_of_an_earlier_version_is_read(context: FolderContext) -> None:
    CheckpointStore(context).save(snapshot(3))
    state = context.saved_state
    del state["eval_loss"]
    context.checkpoint(state)
    found = CheckpointStore(context).load_latest(FINGERPRINT)
    assert found
    assert found.progress.step == 3


@pytest.mark.parametrize(("spoiled", "step"), [((3,), 2), ((3, 2), None)])
def test_a_bad_checkpoint_gives_way_to_the_one_before_it(
    context: FolderContext, spoiled: tuple[int, ...], step: int | None
) -> None:
    shelf = CheckpointStore(context, keep=2)
    for each in (1, 2, 3):
        shelf.save(snapshot(each))
    for each in spoiled:
        for path in context.root.rglob(f"step-{each:08d}.tar"):
            path.write_bytes(b"spoiled")
    found = CheckpointStore(context).load_latest(FINGERPRINT)
    assert (found.progress.step if found else None) == step
    assert f"checkpoint of step {spoiled[-1]} cannot be used" in " ".join(context.logs("warning"))
    assert ("begins at the start" in " ".join(context.logs("warning"))) == (step is None)


def test_a_checkpoint_of_another_training_is_not_used(context: FolderContext) -> None:
    CheckpointStore(context).save(snapshot(3))
    assert CheckpointStore(context).load_latest(FINGERPRINT | {"lr": "0.2"}) is None
    assert "of another training (lr changed)" in " ".join(context.logs("warning"))


def test_a_store_that_is_away_costs_no_step_on_this_pod(context: FolderContext) -> None:
    shelf = CheckpointStore(context)
    shelf.save(snapshot(1))
    context.artifacts.refused.add(ArtifactKind.CHECKPOINT)
    for step in (2, 3, 4):
        assert shelf.save(snapshot(step)).key == ""
    assert [each.step for each in context.events if isinstance(each, TrainingCheckpoint)] == [1]
    found = CheckpointStore(context).load_latest(FINGERPRINT)
    assert found
    assert found.progress.step == 4
    elsewhere = CheckpointStore(FolderContext(context.root, {}, attempt=2, pod="other")).load_latest(FINGERPRINT)
    assert elsewhere
    assert elsewhere.progress.step == 1  # the last one that every pod can fetch is never forgotten


def test_a_network_that_is_down_is_waited_for_not_trained_around(context: FolderContext) -> None:
    CheckpointStore(context).save(snapshot(3))
    elsewhere = FolderContext(context.root, {}, attempt=2, pod="other")
    elsewhere.artifacts.is_unreachable = True
    with pytest.raises(RunError, match="cannot be reached"):
        CheckpointStore(elsewhere).load_latest(FINGERPRINT)


def test_a_saved_state_that_makes_no_sense_is_said_and_not_used(context: FolderContext) -> None:
    context.checkpoint({"key": 7, "step": "x"})
    assert CheckpointStore(context).load_latest(FINGERPRINT) is None
    assert "cannot be read" in " ".join(context.logs("warning"))
