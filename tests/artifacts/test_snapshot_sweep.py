"""Snapshots over the real control plane and store: the sweep deletes what no kept snapshot needs, and only that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pod_worker.artifacts.object_store import ObjectStore
from pod_worker.artifacts.publisher import Publisher
from pod_worker.control.artifacts.sweep import sweep_checkpoints
from pod_worker.core.run import Json
from pod_worker.snapshots.snapshot_store import SnapshotStore
from tests.training.context import FolderContext


class _RunContext(FolderContext):
    """A stage whose saved state is in the run's document and whose artifacts are in the store."""

    def __init__(self, root: Path, database: Any, artifacts: Any) -> None:
        super().__init__(root, {})
        self._database = database
        self.artifacts = artifacts

    def checkpoint(self, state: dict[str, Json]) -> None:
        super().checkpoint(state)
        self._database["runs"].update_one({"_id": "run1"}, {"$set": {"checkpoints.command": {"state": state}}})


def test_the_sweep_leaves_every_pack_that_a_kept_snapshot_needs(
    db: Any, store: ObjectStore, publisher: Callable[..., Publisher], tmp_path: Path
) -> None:
    context = _RunContext(tmp_path / "pod", db, publisher())
    folder = context.work_dir / "checkpoints"
    saved = SnapshotStore(context, folder, 300, 2)
    saved.restore()
    (folder / "fixed").write_bytes(b"in the first pack, needed by all")
    contents = [b"first", b"second", b"first", b"fourth"]
    for content in contents:
        (folder / "state").write_bytes(content)
        assert saved.snapshot_now("test")
        sweep_checkpoints(db, store)
    state = saved.state["snapshots"]
    named = {*state["packs"], *(each["key"] for each in state["kept"])}
    assert {each.key for each in store.list("runs/")} == named
    assert len(named) < 2 * len(contents)

    other = _RunContext(tmp_path / "other", db, publisher())
    FolderContext.checkpoint(other, context.saved_state)
    again = other.work_dir / "checkpoints"
    assert SnapshotStore(other, again, 300, 2).restore()
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        "fixed": b"in the first pack, needed by all",
        "state": b"fourth",
    }
