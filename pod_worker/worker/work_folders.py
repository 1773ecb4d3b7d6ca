"""The folders of runs below the work root: one per run, locked while an attempt uses it, removed when unused.

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

from pod_worker.core.path_segment import path_segment
from pod_worker.worker.child_user import ChildUser, hand_over

KEPT_SECONDS = 3 * 86_400.0  # the folder of a failed run, for a person to look at
KEPT_FOLDERS = 20  # without a lock; the oldest go first
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class WorkFolders:
    """Raises OSError at construction when the root is a link or belongs to another user."""

    def __init__(self, root: Path, user: ChildUser | None = None) -> None:
        """`user` owns the folders of runs; None keeps ours."""
        self.root = root
        self._user = user
        make_own_folder(root, 0o710 if user else 0o700)
        if user:
            os.chown(root, -1, user.gid)  # it may enter the root and not list it

    def path(self, run_id: str) -> Path:
        return self.root / path_segment(run_id)

    @contextmanager
    def used(self, run_id: str) -> Iterator[Path]:
        """The run's folder, created where it is missing; no worker removes it until the context ends."""
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
        """Remove unused folders that are old or too many; returns them. `now` is a POSIX timestamp."""
        folders = sorted(self._folders(), reverse=True)
        surplus = [path for used_at, path in folders[kept_folders:]]
        old = [path for used_at, path in folders[:kept_folders] if now - used_at > kept_seconds]
        return [path for path in (*surplus, *old) if self._remove(path)]

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


def make_own_folder(path: Path, mode: int) -> None:
    """A folder of this user with this mode. Raises OSError where it is a link or belongs to another user."""
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
