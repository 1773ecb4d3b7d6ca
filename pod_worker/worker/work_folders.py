"""The folders of runs below the work root, one per run.

The folder is locked while an attempt uses it and removed when it is unused.

A folder's name comes from `path_segment`, so no run id can name a folder outside the root. Liveness is a shared
flock(2) on the folder itself, held for an attempt; its age only decides among folders without a lock. No link is
followed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pod_worker.core.identifiers.path_segment import path_segment
from pod_worker.worker.isolation.child_user import ChildUser, hand_over

KEPT_SECONDS = 3 * 86_400.0  # the folder of a failed run, for a person to look at
KEPT_FOLDERS = 20  # without a lock; the oldest go first
KEPT_BYTES = 20 * 10**9  # of all these together, on disk
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class WorkFolders:
    """Raises OSError when the root is a link or belongs to another user."""

    def __init__(self, root: Path, user: ChildUser | None = None, kept_bytes: int = KEPT_BYTES) -> None:
        """Folders below `root`.

        `user` owns the folders of runs; None keeps ours. `kept_bytes`: on disk, of all folders not in
        use.
        """
        self.root = root
        self._user = user
        self._kept_bytes = kept_bytes
        make_own_folder(root, 0o710 if user else 0o700)
        if user:
            os.chown(root, -1, user.gid)  # it may enter the root and not list it

    def path(self, run_id: str) -> Path:
        return self.root / path_segment(run_id)

    @contextmanager
    def used(self, run_id: str) -> Iterator[Path]:
        """The run's folder, created where it is missing; locked until the context ends."""
        path = self.path(run_id)
        fd = self._lock_shared(path)
        try:
            yield path
        finally:
            os.utime(fd)  # its age counts from here
            os.close(fd)

    def remove(self, run_id: str) -> bool:
        """Remove the folder unless an attempt uses it."""
        return self._remove(self.path(run_id))

    def clean(
        self, now: float, kept_seconds: float = KEPT_SECONDS, kept_folders: int = KEPT_FOLDERS
    ) -> list[Path]:
        """Remove unused folders that are old or too many; returns them, oldest first.

        It also removes those that are too large together.

        `now` is a POSIX timestamp.
        """
        surplus, kept, kept_bytes = list[Path](), 0, 0
        for used_at, path in sorted(self._folders(), reverse=True):
            if self._is_used(path):
                continue
            kept += 1
            if kept <= kept_folders and now - used_at <= kept_seconds and kept_bytes <= self._kept_bytes:
                kept_bytes += disk_bytes(path)  # of what may stay only: a walk through many files takes long
                if kept_bytes <= self._kept_bytes:
                    continue
            surplus.append(path)
        return [path for path in reversed(surplus) if self._remove(path)]

    def _folders(self) -> Iterator[tuple[float, Path]]:
        """(last use, path) of every folder."""
        with os.scandir(self.root) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                    yield entry.stat(follow_symlinks=False).st_mtime, Path(entry.path)

    def _lock_shared(self, path: Path) -> int:
        while True:
            path.mkdir(mode=0o700, exist_ok=True)
            if self._user:
                hand_over(path, self._user)
            fd = os.open(path, _FOLDER_FLAGS)
            try:
                fcntl.flock(fd, fcntl.LOCK_SH)
                if _is_same(fd, path):
                    return fd
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)  # removed between the two steps

    def _is_used(self, path: Path) -> bool:
        try:
            fd = os.open(path, _FOLDER_FLAGS)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def _remove(self, path: Path) -> bool:
        if path.parent != self.root or not path.name or path.name in (".", ".."):
            raise ValueError(f"{path} is not a folder of the work root {self.root}")
        try:
            fd = os.open(path, _FOLDER_FLAGS)
        except OSError:
            return False  # not there, or not a folder
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        except BlockingIOError:
            return False
        finally:
            os.close(fd)
        return True


def disk_bytes(folder: Path) -> int:
    """What the folder takes on disk.

    Allocated blocks, a file with several names once. No link is followed.
    """
    counted: dict[tuple[int, int], int] = {}
    for parent, names, files in os.walk(folder):
        for name in (*names, *files):
            try:
                found = os.lstat(os.path.join(parent, name))
            except FileNotFoundError:
                continue
            counted[found.st_dev, found.st_ino] = found.st_blocks * 512
    return sum(counted.values())


def make_own_folder(path: Path, mode: int) -> None:
    """A folder of this user with this mode.

    Raises OSError where it is a link or belongs to another user.
    """
    path.mkdir(parents=True, exist_ok=True, mode=mode)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(f"{path} is a link, not a folder; name the real folder")
    if found.st_uid != os.geteuid():
        raise PermissionError(f"{path} belongs to user {found.st_uid}; use a folder of your own")
    if stat.S_IMODE(found.st_mode) != mode:
        path.chmod(mode)


def _is_same(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False
