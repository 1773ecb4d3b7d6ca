"""What a folder is made of: chunks that are what the manifest says, and no others."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from pod_worker.snapshots.manifest import PackedFile, SnapshotManifest, SnapshotPack, StoredChunk
from pod_worker.snapshots.restoring import CorruptChunkError, restore_folder


def test_a_chunk_with_other_bytes_leaves_the_folder_as_it_is(tmp_path: Path) -> None:
    chunk = StoredChunk(0, 3, hashlib.sha256(b"abc").digest(), 0, 0)
    manifest = SnapshotManifest(
        number=1,
        packs=[SnapshotPack("pack", "0" * 64, 3)],
        folders=[],
        files=[PackedFile(b"weights", 0o644, 3, 0, [chunk])],
        links=[],
    )
    folder, staging = tmp_path / "checkpoints", tmp_path / "staging"
    folder.mkdir()
    (folder / "old").touch()

    def fetch(pack: SnapshotPack, target: Path) -> Path:
        target.write_bytes(b"xyz")
        return target

    with pytest.raises(CorruptChunkError, match="weights"):
        restore_folder(manifest, folder, staging, fetch)
    assert [path.name for path in folder.iterdir()] == ["old"]
