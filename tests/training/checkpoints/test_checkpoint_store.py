"""Which copy of a checkpoint is trained from, when there are two."""

from __future__ import annotations

from pathlib import Path

import pytest

from pod_worker.training.checkpoints import checkpoint_store
from pod_worker.training.checkpoints.checkpoint import hash_file
from pod_worker.training.checkpoints.checkpoint_store import CheckpointStore
from tests.training.checkpoints.test_checkpoint import FINGERPRINT, snapshot
from tests.training.context import FolderContext


def test_a_copy_that_a_crash_spoiled_on_this_disk_is_fetched_anew(tmp_path: Path) -> None:
    """The store has the good one: hours of training are not thrown away for a half-written file."""
    context = FolderContext(tmp_path, {})
    shelf = CheckpointStore(context)
    for step in (1, 2):
        shelf.save(snapshot(step))
    spoiled = context.work_dir / "checkpoints" / "step-00000002.tar"
    spoiled.write_bytes(spoiled.read_bytes()[:100])

    found = CheckpointStore(context).load_latest(FINGERPRINT)
    assert found is not None
    assert found.progress.step == 2
    assert context.logs("warning") == []


def test_a_file_of_another_size_is_not_even_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sparse file of 64 GB takes no disk, and minutes to hash."""
    context = FolderContext(tmp_path, {})
    CheckpointStore(context).save(snapshot(1))
    local = context.work_dir / "checkpoints" / "step-00000001.tar"
    with local.open("r+b") as file:
        file.truncate(64 << 30)
    hashed: list[int] = []

    def hash_and_note(path: Path) -> str:
        hashed.append(path.stat().st_size)
        return hash_file(path) if path.stat().st_size < 1 << 20 else ""

    monkeypatch.setattr(checkpoint_store, "hash_file", hash_and_note)
    assert CheckpointStore(context).load_latest(FINGERPRINT) is not None
    assert max(hashed) < 1 << 20
