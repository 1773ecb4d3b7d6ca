"""Packs: files of chunks on this disk, until they are artifacts.

A pack begins with random bytes, so no two packs have the same content. The registry takes the same bytes for the
same artifact, also for one that it deleted since.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from pod_worker.snapshots.manifest import SnapshotPack

PACK_BYTES = 256 << 20
PACKS_LIMIT = 256  # of one snapshot: the run's document names them all
_NONCE_BYTES = 16
_DISK_RESERVE_BYTES = 2 << 30  # stays free for the job
_LIVE_SHARE = 0.5  # a pack with less than this in use is replaced


@dataclass(eq=False, slots=True)
class StagedPack:
    """`stored` is None until the pack is an artifact; its file is gone after that."""

    path: Path | None
    bytes: int
    stored: SnapshotPack | None = None


class ChunkPlace(NamedTuple):
    pack: StagedPack
    offset: int


class PackStaging:
    """Collects new chunks in pack files below `folder`.

    `flush` uploads a full pack early, where this disk has no room to keep all of them until the snapshot is whole.
    """

    def __init__(self, folder: Path, total_bytes: int, flush: Callable[[StagedPack], None]) -> None:
        self._folder = folder
        self._limit = max(PACK_BYTES, total_bytes // (PACKS_LIMIT // 2))
        self._flush = flush
        self._file: BinaryIO | None = None
        self._current: StagedPack | None = None
        self.packs: list[StagedPack] = []

    def add(self, content: memoryview) -> ChunkPlace:
        if self._current is not None and self._current.bytes + len(content) > self._limit:
            self.finish()
        pack, file = self._opened()
        place = ChunkPlace(pack, pack.bytes)
        file.write(content)
        pack.bytes += len(content)
        return place

    def finish(self) -> None:
        """Close the pack in work; upload it now when the disk is nearly full."""
        pack, file = self._current, self._file
        self._current = self._file = None
        if pack is None or file is None:
            return
        file.close()
        if shutil.disk_usage(self._folder).free < self._limit + _DISK_RESERVE_BYTES:
            self._flush(pack)

    def discard(self) -> None:
        """Delete every pack file that was not uploaded."""
        if self._file is not None:
            self._file.close()
        self._current = self._file = None
        for pack in self.packs:
            if pack.path is not None:
                pack.path.unlink(missing_ok=True)

    def _opened(self) -> tuple[StagedPack, BinaryIO]:
        if self._current is None or self._file is None:
            path = self._folder / f"{len(self.packs):04d}.pack"
            self._file = open(path, "xb")  # noqa: SIM115 - closed by `finish`
            self._file.write(os.urandom(_NONCE_BYTES))
            self._current = StagedPack(path, _NONCE_BYTES)
            self.packs.append(self._current)
        return self._current, self._file


def packs_to_replace(used: Iterable[tuple[StagedPack, int]]) -> set[StagedPack]:
    """Stored packs whose chunks belong into new ones.

    `used` has (pack, bytes) of every chunk that is needed.

    Those of which less than half is in use; and the smaller half of them all, when there are too many.
    """
    live: dict[StagedPack, int] = {}
    for pack, size in used:
        live[pack] = live.get(pack, 0) + size
    stored = [pack for pack in live if pack.stored is not None]
    sparse = {pack for pack in stored if live[pack] < _LIVE_SHARE * (pack.bytes - _NONCE_BYTES)}
    dense = sorted((pack for pack in stored if pack not in sparse), key=lambda pack: live[pack])
    if len(dense) >= PACKS_LIMIT:
        sparse.update(dense[: PACKS_LIMIT // 2])
    return sparse
