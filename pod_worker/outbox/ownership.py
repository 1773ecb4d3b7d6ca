"""The locks and permissions of a spool's folder.

It has one living owner and any number of attached processes.

An owner holds a flock on `owner.lock`, so that another worker can recognize the spool of a dead one. Every process
that uses the folder holds a shared flock on `members.lock`.
"""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

OWNER, MEMBERS = "owner.lock", "members.lock"


def try_own(directory: Path) -> int | None:
    """The descriptor of the owner's lock; None while a living process holds it."""
    try:
        fd = os.open(directory / OWNER, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if is_linked(fd, directory / OWNER):
            return fd
    except BlockingIOError:
        pass
    os.close(fd)
    return None


def join(directory: Path) -> int:
    """The descriptor that says: a process uses this folder."""
    fd = os.open(directory / MEMBERS, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_SH)
    return fd


def is_linked(fd: int, path: Path) -> bool:
    """Whether `path` is still the file that is open as `fd`."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


def make_private(folder: Path) -> None:
    """A folder of this user that others can neither read nor write.

    Raises OSError where that is not possible.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        problem = "is a symbolic link" if stat.S_ISLNK(found.st_mode) else "belongs to another user"
        raise PermissionError(
            f"the spool folder {folder} {problem}: set POD_WORKER_SPOOL_DIR to a folder of your own"
        )
    if stat.S_IMODE(found.st_mode) & 0o027:  # group may search: a child under another uid reaches its own folder
        folder.chmod(stat.S_IMODE(found.st_mode) & ~0o027)
