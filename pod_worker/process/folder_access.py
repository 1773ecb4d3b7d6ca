"""Whether another user may enter the folders on the way to a path."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import Path


def closed_folder(path: Path, uid: int, groups: Iterable[int]) -> Path | None:
    """The first folder on the way to `path` that the user may not enter, or None."""
    if uid == 0:
        return None
    for folder in reversed(path.parents):
        try:
            found = folder.stat()
        except OSError:
            continue  # created later
        if found.st_uid == uid:
            is_open = found.st_mode & stat.S_IXUSR
        elif found.st_gid in groups:
            is_open = found.st_mode & stat.S_IXGRP
        else:
            is_open = found.st_mode & stat.S_IXOTH
        if not is_open:
            return folder
    return None
