"""Jobs beside the scheduler: executions in slots, and model calls.

The scheduler is one thread that submits jobs and takes their results; jobs change nothing that it owns.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class JobKind(StrEnum):
    PROPOSE = "propose"
    EXECUTE = "execute"
    ANALYSE = "analyse"


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchJob:
    kind: JobKind
    node_id: str
    work: Callable[[], object]
    slot: int | None = None  # of an execution


@dataclass(frozen=True, slots=True)
class JobResult:
    job: SearchJob
    value: object = None
    error: BaseException | None = None


class WorkPool(Protocol):
    def submit(self, job: SearchJob) -> None: ...

    def wait(self, timeout_seconds: float) -> JobResult | None:
        """The next result; None after the timeout."""


def run_job(job: SearchJob) -> JobResult:
    """Interruptions too are results: the scheduler's thread decides what ends."""
    try:
        return JobResult(job, job.work())
    except BaseException as error:
        return JobResult(job, error=error)


class ThreadPool:
    """One daemon thread a job: a hanging model call cannot delay the process's end."""

    def __init__(self) -> None:
        self._results: queue.SimpleQueue[JobResult] = queue.SimpleQueue()

    def submit(self, job: SearchJob) -> None:
        name = f"{job.kind}-{job.node_id}"
        threading.Thread(target=lambda: self._results.put(run_job(job)), name=name, daemon=True).start()

    def wait(self, timeout_seconds: float) -> JobResult | None:
        try:
            return self._results.get(timeout=timeout_seconds)
        except queue.Empty:
            return None


def drain(pool: WorkPool, count: Callable[[], int], seconds: float) -> Iterator[JobResult]:
    """Results that come within `seconds`, while `count` is above zero."""
    deadline = time.monotonic() + seconds
    while count() and (left := deadline - time.monotonic()) > 0:
        if result := pool.wait(left):
            yield result
