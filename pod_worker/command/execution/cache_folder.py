"""Folders on a pod's disk that attempts share: built once, then read by all.

A folder is complete when its marker exists; a half-built one is removed before the next build. The builder holds
an exclusive flock(2) on the folder, a user a shared one, and a folder that is locked is never evicted.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pod_worker.core.stop_signal import StopSignal
from pod_worker.process.removal import remove

MARKER = "complete.json"
POLL_SECONDS = 0.2
KEPT_FOLDERS = 20
KEPT_BYTES = 40 * 10**9
_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class CacheFolders:
    def __init__(self, root: Path, kept_folders: int = KEPT_FOLDERS, kept_bytes: int = KEPT_BYTES) -> None:
        self._root = root
        self._kept_folders, self._kept_bytes = kept_folders, kept_bytes

    @contextmanager
    def used(self, name: str, build: Callable[[Path], None], stop: StopSignal) -> Iterator[tuple[Path, bool]]:
        """(folder, whether it was there); not removed until the context ends.

        `build` fills the empty folder where there is none. Raises what `build` raises, and at a stop.
        """
        path = self._root / name
        fd, was_there = self._acquire(path, build, stop)
        try:
            os.utime(path / MARKER)  # the time of its last use
            self._evict()
            yield path, was_there
        finally:
            os.close(fd)

    def _acquire(self, path: Path, build: Callable[[Path], None], stop: StopSignal) -> tuple[int, bool]:
        was_there = True
        while True:
            stop.check()
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            fd = os.open(path, _FLAGS)
            try:
                if _lock(fd, fcntl.LOCK_SH) and _is_same(fd, path) and (path / MARKER).exists():
                    return fd, was_there
                fcntl.flock(fd, fcntl.LOCK_UN)  # two that wait with a shared lock would wait for each other
                is_ours = _lock(fd, fcntl.LOCK_EX) and _is_same(fd, path)
                if is_ours and not (path / MARKER).exists():
                    was_there = False
                    _build(path, build)
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)
            if not is_ours:
                time.sleep(POLL_SECONDS)  # another worker of this pod builds it, or has just removed it

    def _evict(self) -> None:
        """Remove the folders that were used longest ago, beyond the bounds."""
        kept, size = 0, 0
        for _, path in sorted(self._complete(), reverse=True):
            kept, size = kept + 1, size + _bytes_of(path)
            if kept > self._kept_folders or size > self._kept_bytes:
                _remove_unused(path)

    def _complete(self) -> Iterator[tuple[float, Path]]:
        for path in self._root.iterdir():
            try:
                yield (path / MARKER).stat().st_mtime, path
            except OSError:
                continue  # being built


def _build(path: Path, build: Callable[[Path], None]) -> None:
    for entry in path.iterdir():
        remove(entry)
    build(path)
    draft = path / f"{MARKER}.draft"
    draft.write_text(json.dumps({"bytes": _disk_bytes(path)}))
    os.replace(draft, path / MARKER)


def _remove_unused(path: Path) -> None:
    try:
        fd = os.open(path, _FLAGS)
    except OSError:
        return
    try:
        if _lock(fd, fcntl.LOCK_EX):
            (path / MARKER).unlink(missing_ok=True)  # first: a removal that is interrupted leaves no half folder
            remove(path)
    finally:
        os.close(fd)


def _lock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_same(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


def _bytes_of(path: Path) -> int:
    try:
        return int(json.loads((path / MARKER).read_text())["bytes"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _disk_bytes(folder: Path) -> int:
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            total += os.lstat(os.path.join(parent, name)).st_blocks * 512
    return total
