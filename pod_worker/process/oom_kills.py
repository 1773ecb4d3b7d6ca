"""Whether the kernel's OOM killer killed a process of our cgroup.

A child that dies of a SIGKILL that we did not send was probably killed for memory. The cgroup's counter decides
(cgroup v2 `memory.events`, v1 `memory.oom_control`). Only a machine without either counts all of its processes:
elsewhere a neighbour's kill must not explain ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

CGROUP_FILE = Path("/proc/self/cgroup")
CGROUP_ROOT = Path("/sys/fs/cgroup")
MACHINE_FILE = Path("/proc/vmstat")


class OomKillCounter:
    def __init__(self, file: Path | None = None) -> None:
        self._file = file or counter_file()
        self._before = self._count()

    def has_increased(self) -> bool:
        return self._count() > self._before

    def _count(self) -> int:
        return _oom_kills(self._file) or 0


def counter_file(memberships: Path = CGROUP_FILE, root: Path = CGROUP_ROOT, machine: Path = MACHINE_FILE) -> Path:
    """The file with the counter of our cgroup; without one, of the machine."""
    candidates = (file for file in _candidates(memberships, root) if _oom_kills(file) is not None)
    return next(candidates, machine)


def _candidates(memberships: Path, root: Path) -> Iterator[Path]:
    """Our own cgroup first; then the mount, where a container hides the path."""
    paths = dict(_memberships(memberships))
    for controller, folder, name in (
        ("", root, "memory.events"),
        ("memory", root / "memory", "memory.oom_control"),
    ):
        if controller in paths:
            yield folder / paths[controller].lstrip("/") / name
        yield folder / name


def _memberships(file: Path) -> Iterator[tuple[str, str]]:
    """Controller ("" for cgroup v2) and path of each line; see cgroups(7)."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            yield controller, path


def _oom_kills(file: Path) -> int | None:
    """None for a file that is missing or counts nothing."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return None
    counts = [line.split()[1] for line in lines if line.startswith("oom_kill ")]
    return int(counts[0]) if counts else None
