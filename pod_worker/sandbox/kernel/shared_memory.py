"""Files in /dev/shm that programs of this user left behind.

Two servers of one machine have the same user, so a file that any of its processes has open or mapped stays.
"""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import shutil
import tempfile

from pod_worker.process import tree

FOLDER = "/dev/shm"
_SOCKETS = "sockets-of-"
log = logging.getLogger(__name__)


def make_socket_folder(keeper: int) -> str:
    """A new folder for the UNIX sockets of the program of this keeper.

    Process ids come again: the folder of an earlier keeper with this one may still be there.
    """
    return tempfile.mkdtemp(prefix=f"{_SOCKETS}{keeper}-", dir=FOLDER)


def remove_socket_folders(keeper: int) -> None:
    for path in glob.glob(f"{FOLDER}/{_SOCKETS}{keeper}-*"):
        shutil.rmtree(path, ignore_errors=True)


def clear() -> None:
    """Remove what no process of this user uses."""
    try:
        with os.scandir(FOLDER) as entries:
            own = [entry for entry in entries if entry.stat(follow_symlinks=False).st_uid == os.geteuid()]
    except OSError as error:
        log.warning("cannot read %s: %s", FOLDER, error)
        return
    held = _held_files() if own else set()
    for entry in own:
        if entry.inode() not in held and not _has_keeper(entry.name):
            with contextlib.suppress(OSError):
                _remove(entry)


def _has_keeper(name: str) -> bool:
    keeper = name.removeprefix(_SOCKETS).partition("-")[0]
    return name.startswith(_SOCKETS) and keeper.isdigit() and os.path.exists(f"/proc/{keeper}")


def _remove(entry: os.DirEntry[str]) -> None:
    if entry.is_dir(follow_symlinks=False):
        shutil.rmtree(entry.path, ignore_errors=True)
    else:
        os.unlink(entry.path)


def _held_files() -> set[int]:
    """The inodes below /dev/shm that processes of this user have open or mapped."""
    found = set[int]()
    for pid in tree.pids():
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/{pid}").st_uid == os.geteuid():
                found |= _mapped(pid) | _opened(pid)
    return found


def _mapped(pid: int) -> set[int]:
    """By /proc/PID/maps: field 5 is the inode, field 6 the path."""
    with open(f"/proc/{pid}/maps") as file:
        fields = [line.split(maxsplit=5) for line in file if f" {FOLDER}/" in line]
    return {int(each[4]) for each in fields}


def _opened(pid: int) -> set[int]:
    found = set[int]()
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            path = f"/proc/{pid}/fd/{name}"
            if os.readlink(path).startswith(f"{FOLDER}/"):
                found.add(os.stat(path).st_ino)
    return found
