"""The manifest of a snapshot: names, modes, times, and places of chunks.

Content of a file is cut into chunks of CHUNK_BYTES. Chunks are stored in packs, each chunk once. A part of a file
without a chunk is a hole. Nothing of a manifest is used before `check` accepted all of it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import msgspec

from pod_worker.core.identifiers.link_target import is_inside
from pod_worker.snapshots.folder import shown

CHUNK_BYTES = 1 << 20
MANIFEST_LIMIT_BYTES = 1 << 30  # decoded
_VERSION = 1
_MODES = 0o777


class ManifestError(Exception):
    """The bytes are no manifest that may be used; the message says why."""


class StoredChunk(msgspec.Struct, frozen=True, array_like=True):
    """`index` counts chunks of the file, `offset` bytes of the pack."""

    index: int
    size: int  # bytes
    digest: bytes  # SHA-256
    pack: int  # in the manifest's list
    offset: int


class PackedFile(msgspec.Struct, frozen=True, array_like=True):
    path: bytes
    mode: int
    size: int  # bytes
    modified_ns: int
    chunks: list[StoredChunk]


class SnapshotPack(msgspec.Struct, frozen=True, array_like=True):
    key: str
    sha256: str
    bytes: int


class SnapshotManifest(msgspec.Struct, frozen=True):
    number: int  # rises over all attempts of the run
    packs: list[SnapshotPack]
    folders: list[tuple[bytes, int]]  # path, mode; each parent before its children
    files: list[PackedFile]
    links: list[tuple[bytes, bytes]]  # path, target
    version: int = _VERSION

    def encode(self) -> bytes:
        return zlib.compress(msgspec.msgpack.encode(self), 1)

    def holds_same_as(self, other: SnapshotManifest) -> bool:
        """Whether both restore the same folder."""
        return self.folders == other.folders and self.links == other.links and _content(self) == _content(other)


def decode(content: bytes) -> SnapshotManifest:
    """Raises ManifestError."""
    inflater = zlib.decompressobj()
    try:
        plain = inflater.decompress(content, MANIFEST_LIMIT_BYTES)
        if not inflater.eof:
            raise ManifestError(f"it is cut off, or has more than {MANIFEST_LIMIT_BYTES} bytes")
        manifest = msgspec.msgpack.decode(plain, type=SnapshotManifest)
    except (zlib.error, msgspec.MsgspecError, RecursionError) as error:
        raise ManifestError(f"it cannot be read ({error})") from None
    _check(manifest)
    return manifest


def _content(manifest: SnapshotManifest) -> list[tuple[object, ...]]:
    return [
        (
            each.path,
            each.mode,
            each.size,
            each.modified_ns,
            [(chunk.index, chunk.digest) for chunk in each.chunks],
        )
        for each in manifest.files
    ]


def _check(manifest: SnapshotManifest) -> None:
    if manifest.version != _VERSION:
        raise ManifestError(f"its version is {manifest.version}, known is {_VERSION}: update pod_worker")
    folders: set[bytes] = {b""}
    seen: set[bytes] = set()
    for path, target, is_folder in _named_paths(manifest):
        _check_path(path, folders, seen)
        if is_folder:
            folders.add(path)
        if target is not None and not is_inside(path, target):
            raise ManifestError(f"its link {shown(path)} leads outside")
    for file in manifest.files:
        _check_chunks(file, manifest.packs)


def _named_paths(manifest: SnapshotManifest) -> Iterator[tuple[bytes, bytes | None, bool]]:
    yield from ((path, None, True) for path, _ in manifest.folders)
    yield from ((file.path, None, False) for file in manifest.files)
    yield from ((path, target, False) for path, target in manifest.links)


def _check_path(path: bytes, folders: set[bytes], seen: set[bytes]) -> None:
    """Accept a path below a listed folder, listed once.

    So nothing is ever written through a link.
    """
    parent, _, name = path.rpartition(b"/")
    if name in (b"", b".", b"..") or b"\0" in path or parent not in folders:
        raise ManifestError(f"its path {shown(path)} is not in a folder of the snapshot")
    if path in seen:
        raise ManifestError(f"its path {shown(path)} is listed twice")
    seen.add(path)


def _check_chunks(file: PackedFile, packs: list[SnapshotPack]) -> None:
    last = -1
    for chunk in file.chunks:
        end = chunk.index * CHUNK_BYTES + chunk.size
        is_placed = last < chunk.index and 0 < chunk.size <= CHUNK_BYTES and end <= file.size
        if not is_placed or not 0 <= chunk.pack < len(packs) or len(chunk.digest) != 32:
            raise ManifestError(f"a chunk of {shown(file.path)} does not fit the file")
        if not 0 <= chunk.offset <= packs[chunk.pack].bytes - chunk.size:
            raise ManifestError(f"a chunk of {shown(file.path)} lies outside its pack")
        last = chunk.index
