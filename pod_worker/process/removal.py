"""Deletes what a program left, whatever modes it gave its folders."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path


def remove(path: Path) -> None:
    """Delete a file, link or folder; no link is followed.

    Does nothing where there is none. Raises OSError.
    """
    try:
        is_folder = stat.S_ISDIR(path.lstat().st_mode)
    except FileNotFoundError:
        return
    if not is_folder:
        path.unlink()
        return
    path.chmod(0o700)
    # From the top: a closed folder is opened before the walk enters it.
    for folder, names, _ in os.walk(os.fsencode(path)):
        for name in names:
            inner = os.path.join(folder, name)
            if not os.path.islink(inner):
                os.chmod(inner, 0o700)
    shutil.rmtree(path)
