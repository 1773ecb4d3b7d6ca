"""Whether the kernel's OOM killer struck in our cgroup since we began to look.

A child that dies of SIGKILL nobody sent was most likely killed for memory; the cgroup's counter tells for sure
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
    def __init__(self, places: tuple[Path, ...] = COUNTER_FILES) -> None:
        self._places = places
        self._before = self._count()

    def has_increased(self) -> bool:
        return self._count() > self._before

    def _count(self) -> int:
        return sum(_oom_kills(place) for place in self._places)


def _oom_kills(place: Path) -> int:
    try:
        lines = place.read_text().splitlines()
    except OSError:
        return 0
    counts = [line.split()[1] for line in lines if line.startswith("oom_kill ")]
    return int(counts[0]) if counts else 0
