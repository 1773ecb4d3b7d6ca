"""Timers of pods in order of virtual time.

A timer belongs to one generation of one pod. The simulator ignores timers of older generations.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from enum import StrEnum


class TimerKind(StrEnum):
    PULL = "pull"
    """A machine was found: pull the image (STARTING)."""
    RUN = "run"
    READY = "ready"
    FAIL = "fail"
    VANISH = "vanish"
    INTERRUPT = "interrupt"
    EXIT = "exit"
    STOP = "stop"
    TERMINATE = "terminate"


SURVIVES_RESTART = frozenset({TimerKind.VANISH, TimerKind.INTERRUPT, TimerKind.STOP, TimerKind.TERMINATE})
"""These stay valid when the pod is stopped and started."""


@dataclass(frozen=True, slots=True, order=True)
class Timer:
    at_ns: int
    seq: int
    due: TimerKind
    pod_id: str
    generation: int


class TimerQueue:
    def __init__(self) -> None:
        self._heap: list[Timer] = []
        self._seq = 0

    def add(self, at_ns: int, due: TimerKind, pod_id: str = "", generation: int = 0) -> None:
        self._seq += 1
        heapq.heappush(self._heap, Timer(at_ns, self._seq, due, pod_id, generation))

    def pop(self) -> Timer:
        return heapq.heappop(self._heap)

    @property
    def next_ns(self) -> int | None:
        return self._heap[0].at_ns if self._heap else None

    def timers(self) -> list[Timer]:
        return sorted(self._heap)

    def restore(self, timers: list[Timer]) -> None:
        self._heap = sorted(timers)
        self._seq = max((timer.seq for timer in timers), default=0)

    def __len__(self) -> int:
        return len(self._heap)
