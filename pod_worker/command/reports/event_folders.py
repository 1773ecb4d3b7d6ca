"""Finds TensorBoard event files below folders, sorted by their creation."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MARK = "tfevents"
ENTRIES = 20_000  # looked at in one search
FILES = 1_000
_CREATED = re.compile(r"tfevents\.(\d+)\.(?:.*\.(\d+)(?:\.v2)?$)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class FoundFile:
    path: str
    inode: int
    size: int
    created: tuple[int, int]  # second, and the writer's number in its process

    @property
    def folder(self) -> str:
        return os.path.dirname(self.path)


def find_event_files(base: Path, roots: Sequence[Path]) -> tuple[list[FoundFile], bool]:
    """The files by creation, and whether all were found within the limits.

    `roots` are below `base`. Links are not followed: a job in a sandbox could lead the search out of its folders.
    """
    found: list[FoundFile] = []
    looked_at = 0
    folders = deque(str(each) for each in roots if not _has_link(base, each))
    while folders:
        for entry in _entries(folders.popleft()):
            looked_at += 1
            if looked_at > ENTRIES or len(found) > FILES:
                return _by_creation(found)[:FILES], False
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
            elif MARK in entry.name and (file := _found(entry)):
                found.append(file)
    return _by_creation(found), True


def _has_link(base: Path, root: Path) -> bool:
    """Whether a part of the path below `base` is a link."""
    expected = os.path.join(os.path.realpath(base), os.path.relpath(root, base))
    return os.path.realpath(root) != os.path.normpath(expected)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """At most what a search may look at; none of a folder that cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry, _ in zip(entries, range(ENTRIES + 1), strict=False)]
    except OSError:
        return []


def _found(entry: os.DirEntry[str]) -> FoundFile | None:
    try:
        if not entry.is_file(follow_symlinks=False):
            return None
        state = entry.stat(follow_symlinks=False)
    except OSError:  # deleted meanwhile
        return None
    named = _CREATED.search(entry.name)
    created = (int(named[1]), int(named[2] or 0)) if named else (int(state.st_mtime), 0)
    return FoundFile(entry.path, state.st_ino, state.st_size, created)


def _by_creation(found: list[FoundFile]) -> list[FoundFile]:
    return sorted(found, key=lambda each: (each.created, each.path))
