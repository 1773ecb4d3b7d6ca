"""Which copy of a checkpoint is trained from, when there are two."""

from __future__ import annotations

from pathlib import Path

from pod_worker.training.checkpoint_store import CheckpointStore
from tests.training.context import FolderContext
from tests.training.test_checkpoint import FINGERPRINT, snapshot


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
