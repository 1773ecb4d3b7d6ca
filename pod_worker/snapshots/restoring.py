"""A folder made from a manifest, renamed into place when it is whole.

Every chunk is verified."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from pod_worker.process.removal import remove
from pod_worker.snapshots.folder import FileChangedError, OpenedFolder, UnreadableError, shown
from pod_worker.snapshots.manifest import CHUNK_BYTES, PackedFile, SnapshotManifest, SnapshotPack, StoredChunk

FetchPack = Callable[[SnapshotPack, Path], Path]
_Missing = dict[int, list[tuple[StoredChunk, PackedFile]]]  # by pack


class CorruptChunkError(Exception):
    """A pack does not hold what the manifest says."""


def restore_folder(manifest: SnapshotManifest, folder: Path, staging: Path, fetch_pack: FetchPack) -> None:
    """Replace `folder` with the snapshot.

    The old content is a source of chunks, each accepted by its hash only.

    Raises CorruptChunkError, OSError, and what `fetch_pack` raises. `folder` is unchanged then.
    """
    fresh = staging / "restored"
    remove(fresh)
    fresh.mkdir(parents=True)
    for path, _ in manifest.folders:
        _inside(fresh, path).mkdir(mode=0o700)
    missing = _fill_from(folder, manifest, fresh)
    for number, chunks in sorted(missing.items()):
        pack = fetch_pack(manifest.packs[number], staging / "fetched.pack")
        _fill_from_pack(pack, chunks, fresh)
        pack.unlink()
    _finish(manifest, fresh)
    replace_folder(folder, fresh, staging)


def replace_folder(folder: Path, fresh: Path, staging: Path) -> None:
    """Swap in the new folder.

    Between the two renames there is no folder: an attempt that is killed there restores again.
    """
    old = staging / "replaced"
    remove(old)
    if folder.is_symlink() or folder.exists():
        folder.rename(old)
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh.rename(folder)
    remove(old)


def _fill_from(folder: Path, manifest: SnapshotManifest, fresh: Path) -> _Missing:
    """Create every file with the chunks that the old folder has; returns the others."""
    missing: _Missing = defaultdict(list)
    try:
        opened = OpenedFolder(folder)
    except OSError:
        opened = None
    try:
        for file in manifest.files:
            for chunk in _copy_local(opened, file, _inside(fresh, file.path)):
                missing[chunk.pack].append((chunk, file))
    finally:
        if opened is not None:
            opened.__exit__()
    return missing


def _copy_local(opened: OpenedFolder | None, file: PackedFile, target: Path) -> list[StoredChunk]:
    lacking = []
    with open(target, "xb") as written:
        written.truncate(file.size)
        handle = _open_old(opened, file.path)
        for chunk in file.chunks:
            content = os.pread(handle, chunk.size, chunk.index * CHUNK_BYTES) if handle is not None else b""
            if hashlib.sha256(content).digest() == chunk.digest:
                os.pwrite(written.fileno(), content, chunk.index * CHUNK_BYTES)
            else:
                lacking.append(chunk)
        if handle is not None:
            os.close(handle)
    return lacking


def _open_old(opened: OpenedFolder | None, path: bytes) -> int | None:
    try:
        return opened.open_file(path) if opened is not None else None
    except (FileChangedError, UnreadableError):
        return None


def _fill_from_pack(pack: Path, chunks: list[tuple[StoredChunk, PackedFile]], fresh: Path) -> None:
    with open(pack, "rb") as source:
        for chunk, file in sorted(chunks, key=lambda each: each[0].offset):
            content = os.pread(source.fileno(), chunk.size, chunk.offset)
            if hashlib.sha256(content).digest() != chunk.digest:
                raise CorruptChunkError(f"a chunk of {shown(file.path)} has another hash than its manifest says")
            with open(_inside(fresh, file.path), "r+b", buffering=0) as target:
                os.pwrite(target.fileno(), content, chunk.index * CHUNK_BYTES)


def _finish(manifest: SnapshotManifest, fresh: Path) -> None:
    """Links after all files, modes after all entries, folders from the innermost."""
    for file in manifest.files:
        path = _inside(fresh, file.path)
        os.chmod(path, file.mode & 0o777)
        os.utime(path, ns=(file.modified_ns, file.modified_ns))
    for link, target in manifest.links:
        os.symlink(os.fsdecode(target), _inside(fresh, link))
    for folder, mode in reversed(manifest.folders):
        os.chmod(_inside(fresh, folder), mode & 0o777)


def _inside(folder: Path, path: bytes) -> Path:
    return folder / os.fsdecode(path)
