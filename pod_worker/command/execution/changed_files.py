"""What `setup` changed in the workdir: saved once, applied to later workdirs."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from pod_worker.process.removal import remove

FILES, REMOVED = "files", "removed.json"
State: TypeAlias = dict[str, tuple[int, ...]]


def state_of(work: Path) -> State:
    """A fingerprint of every entry by relative path; a folder's is its mode."""
    return {name: _fingerprint(os.lstat(work / name)) for name in _entries(work)}


def _entries(work: Path) -> Iterator[str]:
    for parent, folders, files in os.walk(work):
        for name in (*folders, *files):
            yield os.path.relpath(os.path.join(parent, name), work)


def _fingerprint(found: os.stat_result) -> tuple[int, ...]:
    if stat.S_ISDIR(found.st_mode):
        return (found.st_mode,)
    # The change time cannot be set back by a program, unlike the modification time.
    return (found.st_mode, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def save(work: Path, before: State, target: Path) -> None:
    """Copy what differs from `before` into the folder `target`."""
    after = state_of(work)
    (target / FILES).mkdir()
    for name in sorted(name for name, found in after.items() if before.get(name) != found):
        _copy(work / name, target / FILES / name)
    (target / REMOVED).write_text(json.dumps(sorted(before.keys() - after.keys())))


def apply(source: Path, work: Path) -> None:
    """Make the same changes to another workdir."""
    for name in json.loads((source / REMOVED).read_text()):
        remove(work / name)
    saved = source / FILES
    for name in sorted(_entries(saved)):
        _copy(saved / name, work / name)


def _copy(source: Path, target: Path) -> None:
    mode = source.lstat().st_mode
    target.parent.mkdir(parents=True, exist_ok=True)
    if stat.S_ISDIR(mode):
        if target.is_symlink() or not target.is_dir():
            remove(target)
        target.mkdir(exist_ok=True)
        target.chmod(stat.S_IMODE(mode) | stat.S_IRWXU)
    elif stat.S_ISREG(mode) or stat.S_ISLNK(mode):
        remove(target)
        shutil.copy2(source, target, follow_symlinks=False)
