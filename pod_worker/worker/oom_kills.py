"""Whether the kernel's OOM killer killed a process of our cgroup.

A child that dies of a SIGKILL that we did not send was probably killed for memory. The cgroup's counter decides
(cgroup v2 `memory.events`, v1 `memory.oom_control`).
"""

from __future__ import annotations

from pathlib import Path

COUNTER_FILES = (
    Path("/sys/fs/cgroup/memory.events"),
    Path("/sys/fs/cgroup/memory/memory.oom_control"),
    Path("/proc/vmstat"),
)


class OomKillCounter:
    def __init__(self, files: tuple[Path, ...] = COUNTER_FILES) -> None:
        self._files = files
        self._before = self._count()

    def has_increased(self) -> bool:
        return self._count() > self._before

    def _count(self) -> int:
        return sum(_oom_kills(file) for file in self._files)


def _oom_kills(file: Path) -> int:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return 0
    counts = [line.split()[1] for line in lines if line.startswith("oom_kill ")]
    return int(counts[0]) if counts else 0
