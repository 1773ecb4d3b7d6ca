"""Ownership of a data folder, and files in it that only their owner can read.

The lock is advisory (flock) and belongs to the open file, so a server that inherits it keeps the folder owned
until it is really gone. Does not protect against other machines on a network file system.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from pod_worker.local.errors import FolderInUseError

LOCK_NAME = "owner.lock"


class FolderLock:
    """Exclusive ownership of `folder`, from `acquire` to `release`.

    Or to the death of every process that inherited it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._fd: int | None = None

    @property
    def fd(self) -> int:
        if self._fd is None:
            raise FolderInUseError(f"The folder {self.folder} is not locked.")
        return self._fd

    def acquire(self, wait_seconds: float = 1.0) -> None:
        """Raises FolderInUseError.

        Waits briefly, because the servers of a killed owner take a moment to end.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(self.folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + wait_seconds
        while not _try_lock(fd):
            if time.monotonic() > deadline:
                owner = os.pread(fd, 20, 0).decode("ascii", "replace").strip() or "unknown"
                os.close(fd)
                raise FolderInUseError(
                    f"The data folder {self.folder} is in use by process {owner}. Fix: stop that stack, or choose "
                    "another folder."
                )
            time.sleep(0.02)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd

    def is_held(self) -> bool:
        """Whether this very object holds the folder."""
        return self._fd is not None

    def is_locked(self) -> bool:
        """Whether any live process holds the folder; looks without taking it."""
        try:
            fd = os.open(self.folder / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            return not _try_lock(fd)
        finally:
            os.close(fd)

    def release(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def write_private(path: Path, text: str) -> None:
    """Replace `path` in one step with a file only its owner can read (0600)."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        os.fchmod(fd, 0o600)  # a leftover of the same name may have had other rights
        file.write(text)
        file.flush()
        os.fsync(fd)
    temporary.replace(path)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
