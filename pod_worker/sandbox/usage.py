"""What a process tree and a folder use: memory, processes, CPU time, disk (Linux)."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pod_worker.process import tree

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")
_ENTRY_BYTES = 1024  # counted for a file at least, so that many empty ones reach the limit


@dataclass(frozen=True, slots=True)
class TreeUsage:
    pids: tuple[int, ...]
    rss_bytes: int  # shared pages count once for each process
    cpu_seconds: float  # of living processes and those that they have waited for


def measure_tree(root: int) -> TreeUsage:
    """Of everything below `root`."""
    pids, rss, ticks = list[int](), 0, 0
    for pid in _descendants(root):
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue
        pids.append(pid)
        rss += int(fields[21])
        ticks += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime
    return TreeUsage(tuple(pids), rss * _PAGE_BYTES, ticks / _TICKS)


def shared_memory_bytes(pids: tuple[int, ...]) -> int:
    """The memory of these processes; a page that n processes share counts 1/n in each.

    The program shares the pages of the server, which no limit is about.
    """
    return sum(map(_proportional_bytes, pids))


def folder_bytes(folder: str | Path, owner: int | None = None) -> int:
    """The disk that a folder takes, or only the files of one owner.

    No link is followed.

    Raises PermissionError for a folder in it that the caller may not read, where a program could hide files. With
    an owner, a folder of others that this user may not write either hides none.
    """
    found = (entry for entry in _entries(str(folder), owner) if owner in (None, entry.st_uid))
    return sum(max(entry.st_blocks * 512, _ENTRY_BYTES) for entry in found)


def deleted_file_bytes(pids: tuple[int, ...]) -> int:
    """Of files without a name that these processes hold open."""
    found: dict[tuple[int, int], int] = {}
    for pid in pids:
        try:
            names = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            continue
        for name in names:
            try:
                each = os.stat(f"/proc/{pid}/fd/{name}")
            except OSError:
                continue
            if stat.S_ISREG(each.st_mode) and each.st_nlink == 0:
                found[each.st_dev, each.st_ino] = each.st_blocks * 512
    return sum(found.values())


def _descendants(root: int) -> list[int]:
    """Every process below `root`.

    Through the kernel's lists of children; where it has none, through every process.
    """
    if not os.path.exists("/proc/self/task"):
        return []
    found, queue = list[int](), [root]
    while queue:
        below = _children(queue.pop())
        if below is None:
            return tree.descendants(root)
        found += below
        queue += below
    return found


def _children(pid: int) -> list[int] | None:
    """None where the kernel does not list them."""
    found = list[int]()
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", "rb") as file:
                found += map(int, file.read().split())
    except FileNotFoundError:
        return None if os.path.exists(f"/proc/{pid}/task/{pid}") else found
    except OSError:
        pass
    return found


def _proportional_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            return next((int(line.split()[1]) * 1024 for line in file if line.startswith(b"Pss:")), 0)
    except OSError:
        pass
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0


def _entries(folder: str, owner: int | None) -> Iterator[os.stat_result]:
    queue = [folder]
    while queue:
        place = queue.pop()
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    try:
                        yield entry.stat(follow_symlinks=False)
                    except OSError:
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        queue.append(entry.path)
        except (FileNotFoundError, NotADirectoryError):
            continue  # removed meanwhile
        except PermissionError:
            if owner is None or _may_hide_files(place, owner):
                raise


def _may_hide_files(folder: str, owner: int) -> bool:
    try:
        return os.stat(folder).st_uid == owner or os.access(folder, os.W_OK)
    except OSError:  # removed meanwhile
        return False
