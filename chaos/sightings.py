"""Which processes of which attempt were alive when: the process table, looked at twenty times a second.

A run's processes carry its attempt in their environment, through every fork and adoption. Only
processes that can run count: one that is stopped or a zombie computes nothing. Guards do not count. The harness's
own pods are told from others by the evidence file that their environment names.
"""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pod_worker.stages.synthetic import EVIDENCE_FILE_VARIABLE
from pod_worker.worker.isolation.attempt_tag import ATTEMPT_VARIABLE

PERIOD_SECONDS = 0.05
_YOUNG_SECONDS = 3.0  # so long a process may still exec into something else
_GUARD = b"guard.py"


@dataclass(frozen=True, slots=True)
class ObservedProcess:
    """A process of a run. `attempt` is `<run>/<attempt>`."""

    pid: int
    attempt: str
    pod: str


class ProcessMonitor:
    """A thread from `start` to `stop`; afterwards `intervals` has (first, last) boot times per attempt."""

    def __init__(self, pods_dir: Path) -> None:
        self._pods_dir = str(pods_dir)
        self._known: dict[int, tuple[float, ObservedProcess | None]] = {}
        self._current: dict[str, set[ObservedProcess]] = {}
        self._open: dict[str, tuple[float, float]] = {}
        self.intervals: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self.longest_gap_seconds = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="sightings", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> Mapping[str, list[tuple[float, float]]]:
        self._stopping.set()
        self._thread.join()
        for attempt, span in self._open.items():
            self.intervals[attempt].append(span)
        self._open.clear()
        return self.intervals

    def on_pod(self, pod: str) -> list[str]:
        """The attempts with a living process on that pod, at the last look."""
        return sorted(a for a, seen in self._current.items() if any(each.pod == pod for each in seen))

    def left(self) -> list[ObservedProcess]:
        """Every process of any run that is there now, stopped ones included; guards too."""
        return [seen for pid in _pids() if (seen := self._identify(pid, is_guard_wanted=True))]

    def _watch(self) -> None:
        before = _now()
        while not self._stopping.wait(PERIOD_SECONDS):
            now = _now()
            self.longest_gap_seconds = max(self.longest_gap_seconds, now - before)
            self._look(now)
            before = now

    def _look(self, now: float) -> None:
        found: dict[str, set[ObservedProcess]] = defaultdict(set)
        pids = _pids()
        for pid in pids:
            seen = self._recall(pid, now)
            if seen is not None and _state(pid) in "RSD":
                found[seen.attempt].add(seen)
        for pid in self._known.keys() - set(pids):
            del self._known[pid]
        for attempt in found:
            self._open[attempt] = (self._open.get(attempt, (now, now))[0], now)
        for attempt in self._open.keys() - found.keys():
            self.intervals[attempt].append(self._open.pop(attempt))
        self._current = found

    def _recall(self, pid: int, now: float) -> ObservedProcess | None:
        since, seen = self._known.get(pid, (now, None))
        if seen is None and now < since + _YOUNG_SECONDS:
            seen = self._identify(pid)
            self._known[pid] = (since, seen)
        return seen

    def _identify(self, pid: int, is_guard_wanted: bool = False) -> ObservedProcess | None:
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
            if ATTEMPT_VARIABLE.encode() not in environment:
                return None
            if not is_guard_wanted and _GUARD in Path(f"/proc/{pid}/cmdline").read_bytes():
                return None
        except OSError:
            return None
        values = dict(
            each.split("=", 1) for each in environment.decode(errors="replace").split("\0") if "=" in each
        )
        if not values.get(EVIDENCE_FILE_VARIABLE, "").startswith(self._pods_dir):
            return None
        return ObservedProcess(pid, values[ATTEMPT_VARIABLE], values.get("RUNPOD_POD_ID", "?"))


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0].decode()
    except (OSError, IndexError):
        return "X"


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
