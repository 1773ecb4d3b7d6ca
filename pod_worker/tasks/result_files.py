"""Reads a file that an untrusted program wrote, without being led to another one.

Every component is opened without following links, size and type are checked on the open file, and the content is
read once into memory. Times are compared with the file system's own clock: `solution.py` was written before the
program started, and the kernel sets the change time of a file whatever modification time the program asks for.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path
from typing import NoReturn

from pod_worker.core.research.evaluation import RefusalKind, ResultRefusedError

OUTPUT_FOLDER = "out"
PROGRAM_FILE = "solution.py"
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CLOCK_STEP_NS = 20_000_000  # the clock of a file system may advance in steps of up to 10 ms


def clear_results(folder: Path) -> None:
    """Remove what an earlier execution left, before a program starts."""
    output = folder / OUTPUT_FOLDER
    if output.is_symlink() or output.is_file():
        output.unlink()
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()


def read_result(folder: Path, name: str, limit_bytes: int) -> bytes:
    """The content of `out/<name>` in a node's folder. Raises ResultRefusedError."""
    handles: list[int] = []
    try:
        handles.append(_open(str(folder), _FOLDER_FLAGS, None, folder.name))
        handles.append(_open(OUTPUT_FOLDER, _FOLDER_FLAGS, handles[0], f"{OUTPUT_FOLDER}/"))
        shown = f"{OUTPUT_FOLDER}/{name}"
        handles.append(_open(name, _FILE_FLAGS, handles[1], shown))
        _check(os.fstat(handles[2]), _started_ns(handles[0]), shown, limit_bytes)
        with os.fdopen(handles.pop(), "rb") as file:
            content = file.read(limit_bytes + 1)
    except OSError as error:
        refuse(RefusalKind.UNREADABLE, f"{OUTPUT_FOLDER}/{name} cannot be read: {os.strerror(error.errno or 0)}")
    finally:
        for handle in handles:
            os.close(handle)
    if len(content) > limit_bytes:
        refuse(RefusalKind.TOO_LARGE, f"{shown} grew beyond {limit_bytes} bytes while it was read")
    return content


def refuse(kind: RefusalKind, message: str) -> NoReturn:
    raise ResultRefusedError(kind, message)


def _open(path: str, flags: int, parent: int | None, shown: str) -> int:
    try:
        return os.open(path, flags, dir_fd=parent)
    except FileNotFoundError:
        refuse(RefusalKind.MISSING, f"{shown} is missing: the program did not write it")
    except OSError as error:
        if error.errno == errno.ELOOP or (error.errno == errno.ENOTDIR and _is_link(path, parent)):
            refuse(RefusalKind.LINK, f"{shown} is a link; write the file itself")
        if error.errno in (errno.ENOTDIR, errno.ENXIO):
            refuse(RefusalKind.NOT_REGULAR, f"{shown} is not a {'folder' if shown.endswith('/') else 'file'}")
        raise


def _is_link(path: str, parent: int | None) -> bool:
    return stat.S_ISLNK(os.stat(path, dir_fd=parent, follow_symlinks=False).st_mode)


def _started_ns(folder: int) -> int:
    """When the controller wrote the program, which is before it started."""
    try:
        return os.stat(PROGRAM_FILE, dir_fd=folder, follow_symlinks=False).st_mtime_ns
    except FileNotFoundError:
        refuse(RefusalKind.FORGED, f"the program removed {PROGRAM_FILE}, so the age of its results is unknown")


def _check(status: os.stat_result, started_ns: int, shown: str, limit_bytes: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        refuse(RefusalKind.NOT_REGULAR, f"{shown} is not a regular file")
    if status.st_nlink > 1:
        refuse(RefusalKind.LINK, f"{shown} has {status.st_nlink} names; write a file of its own")
    if status.st_size > limit_bytes:
        refuse(RefusalKind.TOO_LARGE, f"{shown} has {status.st_size} bytes; at most {limit_bytes} are read")
    if min(status.st_mtime_ns, status.st_ctime_ns) + _CLOCK_STEP_NS < started_ns:
        refuse(RefusalKind.STALE, f"{shown} is older than the start of the program")
    if status.st_mtime_ns > status.st_ctime_ns + _CLOCK_STEP_NS:
        refuse(RefusalKind.FORGED, f"the program set the time of {shown} into the future")
