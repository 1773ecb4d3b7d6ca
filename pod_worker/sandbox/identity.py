"""The user of untrusted programs, and the way to their folders.

Where the starter is root, programs have a user id of their own without an account, beside that of the stages
(`worker.isolation.child_user`). Programs and stage share a group, so that the stage can read and delete what
programs write.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from pod_worker.process.folder_access import closed_folder

SANDBOX_UID = 61_998  # worker.child_user.DEFAULT_UID is the stage's


@dataclass(frozen=True, slots=True)
class SandboxUser:
    uid: int
    gid: int
    groups: tuple[int, ...] = ()  # of the GPU devices


def share_folder(folder: Path, gid: int, *, writable: bool) -> None:
    """Let the group read what this user owns in `folder`.

    `writable`: also write, and new files get the group. No link is followed.
    """
    _share(str(folder), gid, writable)
    for parent, names, files in os.walk(folder):
        for name in (*names, *files):
            _share(os.path.join(parent, name), gid, writable)


def open_closed_folders(folder: Path) -> None:
    """Restore the rights of this user on folders that a program closed."""
    for parent, names, _ in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            found = os.lstat(path)
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
                os.chmod(path, 0o770)


def _share(path: str, gid: int, writable: bool) -> None:
    found = os.lstat(path)
    if found.st_uid != os.geteuid() or stat.S_ISLNK(found.st_mode):
        return
    wanted = stat.S_IRGRP | (stat.S_IWGRP if writable else 0)
    if stat.S_ISDIR(found.st_mode):
        wanted |= stat.S_IXGRP | (stat.S_ISGID if writable else 0)
    if found.st_gid != gid:
        if not writable and stat.S_IROTH & found.st_mode:
            return  # every user may read it
        os.chown(path, -1, gid, follow_symlinks=False)
    if found.st_mode & wanted != wanted:
        os.chmod(path, stat.S_IMODE(found.st_mode) | wanted)


def open_way(path: Path, uid: int, groups: tuple[int, ...]) -> Path | None:
    """Let the user enter the folders that lead to `path`, as far as they are ours.

    Returns the first that stays closed. Root opens nothing: it owns folders that others depend on.
    """
    while (closed := closed_folder(path, uid, groups)) is not None:
        found = closed.stat()
        if os.geteuid() == 0 or found.st_uid != os.geteuid() or not groups:
            return closed
        os.chown(closed, -1, groups[0])
        os.chmod(closed, stat.S_IMODE(found.st_mode) | stat.S_IXGRP)
    return None
