"""A consistent copy of a folder's files, as chunks.

What changed while it was read is read again."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pod_worker.snapshots.folder import FileChangedError, FolderEntry, FolderScan, OpenedFolder, shown
from pod_worker.snapshots.manifest import CHUNK_BYTES
from pod_worker.snapshots.packs import ChunkPlace, PackStaging, StagedPack, packs_to_replace

_RETRY_SECONDS = (0.0, 0.2, 0.5, 1.0, 2.0)
_CLOCK_NS = 50_000_000  # two writes within one tick of the kernel's clock have the same times
_COARSE_CLOCK_NS = 1_100_000_000  # of file systems that store whole seconds
_NAMES_SHOWN = 3


class UnstableFolderError(Exception):
    """The folder changed during every try to copy it; the message names the files."""


class FileChunk(NamedTuple):
    position: int  # counts chunks from the start of the file
    size: int  # bytes
    digest: bytes


@dataclass(slots=True)
class FolderDraft:
    """The folder at one moment, and where its chunks are."""

    scan: FolderScan
    files: dict[bytes, tuple[FileChunk, ...]]
    places: dict[bytes, ChunkPlace]  # by digest


class DraftReader:
    """Reads a folder; remembers the chunks of files that did not change since."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[bytes, tuple[FolderEntry, tuple[FileChunk, ...]]] = {}
        self._buffer = bytearray(CHUNK_BYTES)

    def remember(self, entry: FolderEntry, chunks: tuple[FileChunk, ...]) -> None:
        self._known[entry.path] = (entry, chunks)

    def read(self, places: dict[bytes, ChunkPlace], new_staging: Callable[[int], PackStaging]) -> FolderDraft:
        """Raises UnstableFolderError, UnreadableError, OSError.

        `places` gains the new chunks.
        """
        changed: list[bytes] = []
        staging: PackStaging | None = None
        for pause in _RETRY_SECONDS:
            time.sleep(pause)
            try:
                with OpenedFolder(self._folder) as opened:
                    scan = opened.scan()
                    _let_clock_pass(scan)
                    staging = staging or new_staging(sum(each.size for each in scan.files()))
                    draft = self._copy(opened, scan, places, staging)
                    changed = opened.scan().changed_since(scan)
            except FileChangedError as error:
                changed = [error.path]
            if not changed:
                return draft
        names = ", ".join(shown(path) for path in changed[:_NAMES_SHOWN])
        raise UnstableFolderError(names + (f" and {len(changed) - _NAMES_SHOWN} more" if changed[3:] else ""))

    def _copy(
        self, opened: OpenedFolder, scan: FolderScan, places: dict[bytes, ChunkPlace], staging: PackStaging
    ) -> FolderDraft:
        files = {entry.path: self._chunks(opened, entry, places, staging) for entry in scan.files()}
        needed = {chunk.digest: chunk for chunks in files.values() for chunk in chunks}
        replaced = packs_to_replace((places[key].pack, chunk.size) for key, chunk in needed.items())
        for entry in scan.files() if replaced else ():
            self._move(opened, entry, files[entry.path], places, replaced, staging)
        staging.finish()
        self._known = {entry.path: (entry, files[entry.path]) for entry in scan.files()}
        return FolderDraft(scan, files, {digest: places[digest] for digest in needed})

    def _chunks(
        self, opened: OpenedFolder, entry: FolderEntry, places: dict[bytes, ChunkPlace], staging: PackStaging
    ) -> tuple[FileChunk, ...]:
        known = self._known.get(entry.path)
        if known and known[0] == entry and all(chunk.digest in places for chunk in known[1]):
            return known[1]
        made = []
        with _Reading(opened, entry) as handle:
            for index in _data_chunks(handle, entry.size):
                content = self._read_chunk(handle, entry, index)
                digest = hashlib.sha256(content).digest()
                if digest not in places:
                    places[digest] = staging.add(content)
                made.append(FileChunk(index, len(content), digest))
        self._known[entry.path] = (entry, tuple(made))
        return tuple(made)

    def _move(
        self,
        opened: OpenedFolder,
        entry: FolderEntry,
        chunks: tuple[FileChunk, ...],
        places: dict[bytes, ChunkPlace],
        replaced: set[StagedPack],
        staging: PackStaging,
    ) -> None:
        """Stage again what lies in a pack that is replaced."""
        moving = [chunk for chunk in chunks if places[chunk.digest].pack in replaced]
        if not moving:
            return
        with _Reading(opened, entry) as handle:
            for chunk in moving:
                content = self._read_chunk(handle, entry, chunk.position)
                if hashlib.sha256(content).digest() != chunk.digest:
                    raise FileChangedError(entry.path)
                if places[chunk.digest].pack in replaced:
                    places[chunk.digest] = staging.add(content)

    def _read_chunk(self, handle: int, entry: FolderEntry, index: int) -> memoryview:
        start = index * CHUNK_BYTES
        view = memoryview(self._buffer)[: min(CHUNK_BYTES, entry.size - start)]
        filled = 0
        while filled < len(view):
            count = os.preadv(handle, [view[filled:]], start + filled)
            if count == 0:
                raise FileChangedError(entry.path)
            filled += count
        return view


class _Reading:
    """An opened file that is the scanned one, before and after it is read."""

    def __init__(self, opened: OpenedFolder, entry: FolderEntry) -> None:
        self._entry = entry
        self._handle = opened.open_file(entry.path)

    def __enter__(self) -> int:
        try:
            self._compare()
        except FileChangedError:
            os.close(self._handle)
            raise
        return self._handle

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._compare()
        finally:
            os.close(self._handle)

    def _compare(self) -> None:
        status, entry = os.fstat(self._handle), self._entry
        now = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        if now != (entry.size, entry.modified_ns, entry.changed_ns, entry.inode):
            raise FileChangedError(entry.path)


def _let_clock_pass(scan: FolderScan) -> None:
    """Wait until a further write would get another time than the newest one has."""
    newest = max((each.changed_ns for each in scan.entries), default=0)
    tick = _CLOCK_NS if newest % 1_000_000_000 else _COARSE_CLOCK_NS
    age = time.time_ns() - newest
    if -tick < age < tick:
        time.sleep((tick - max(age, 0)) / 1e9)


def _data_chunks(handle: int, size: int) -> Iterator[int]:
    """The chunks of a file that are not wholly in a hole."""
    position = 0
    while position < size:
        try:
            start = os.lseek(handle, position, os.SEEK_DATA) if size > CHUNK_BYTES else position
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # a hole up to the end
            start = position  # a file system without holes
        index = start // CHUNK_BYTES
        yield index
        position = (index + 1) * CHUNK_BYTES
