"""Many small runs in one worker: `python -m chaos.soak --runs 1000`. Prints what the worker holds, and a verdict.

A real local stack, one real worker. Runs come in rounds; after each round the worker is idle, so that the samples
are comparable. The first round warms up: the verdict compares the sample after it with the last one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

import psutil

from pod_worker.cli.stack.up import LocalStack
from pod_worker.core.clock import SystemClock
from pod_worker.store.mongo import Mongo, connect
from pod_worker.store.queue.run_queue import RunQueue, RunRequest
from pod_worker.store.worker_registry import WorkerState

ENDED = ("COMPLETED", "FAILED")
RSS_GROWTH = 0.10
POOLED = 2  # the driver opens and closes pooled connections as it needs them, whatever the number of runs
WAIT_SECONDS = 1800.0
WORKER = "worker"


@dataclass(frozen=True, slots=True)
class Sample:
    """What an idle worker holds after `runs` runs."""

    runs: int
    seconds_per_run: float
    fds: int
    threads: int
    rss_mb: float
    work_folders: int
    spool_streams: int
    spool_files: int
    spool_mb: float


@dataclass(frozen=True, slots=True)
class Soak:
    """One stack with one worker."""

    local: LocalStack
    database: Mongo
    failed_share: int  # every so many runs fails, and leaves its folder

    def round(self, first: int, count: int) -> float:
        """Queue `count` runs and wait until all have ended; seconds per run."""
        queue = RunQueue(self.database, SystemClock())
        began = time.monotonic()
        for number in range(first, first + count):
            failing = {"fail_at": 1.0} if number % self.failed_share == 0 else {}
            params = {"stages": 1, "seconds": 0, "events": 2, **failing}
            queue.enqueue(RunRequest(f"soak-{number:06d}", "synthetic", params, max_attempts=1))
        wanted = first + count
        _wait(lambda: self.database.runs.count_documents({"status": {"$in": ENDED}}) >= wanted, f"{wanted} runs")
        spent = time.monotonic() - began
        _wait(self._is_idle, "the worker to be idle")
        return spent / count

    def sample(self, runs: int, seconds_per_run: float) -> Sample:
        process = self._process()
        spool = [path for path in (self.local.data / "spool").rglob("*") if path.is_file()]
        work = [path for path in (self.local.data / "work").iterdir() if not path.name.startswith(".")]
        with process.oneshot():
            return Sample(
                runs,
                round(seconds_per_run, 2),
                process.num_fds(),
                process.num_threads(),
                round(process.memory_info().rss / 1e6, 1),
                len(work),
                len({path.parent for path in spool if path.name == "head"}),
                len(spool),
                round(sum(path.stat().st_size for path in spool) / 1e6, 1),
            )

    def _is_idle(self) -> bool:
        found = self.database.workers.find_one({"state": WorkerState.IDLE.value})
        return found is not None and not self._process().children()

    def _process(self) -> psutil.Process:
        return next(
            process
            for process in psutil.Process().children(recursive=True)
            if process.cmdline()[1:4] == ["-m", "pod_worker", "worker"]
        )


def measure(runs: int, round_runs: int, failed_share: int) -> Iterator[Sample]:
    """A sample before the first run and after each round."""
    with (
        tempfile.TemporaryDirectory(prefix="pod_worker_soak_") as folder,
        soaking(Path(folder), failed_share) as soak,
    ):
        yield soak.sample(0, 0.0)
        for first in range(0, runs, round_runs):
            count = min(round_runs, runs - first)
            yield soak.sample(first + count, soak.round(first, count))


def verdict(samples: list[Sample], kept_folders: int) -> list[str]:
    """What grew; empty when nothing did."""
    warm, last = samples[1], samples[-1]
    grown = []
    for name in ("fds", "threads"):
        if getattr(last, name) > getattr(warm, name) + POOLED:
            grown.append(f"{name}: {getattr(warm, name)} -> {getattr(last, name)}")
    if last.rss_mb > warm.rss_mb * (1 + RSS_GROWTH):
        grown.append(f"rss: {warm.rss_mb} -> {last.rss_mb} MB")
    if last.work_folders > kept_folders:
        grown.append(f"work folders: {last.work_folders}, kept are at most {kept_folders}")
    return grown


@contextmanager
def soaking(folder: Path, failed_share: int) -> Iterator[Soak]:
    local = LocalStack(folder, threading.Event())
    local.start()
    database = connect(local.stack.mongodb_url)
    try:
        local.start_worker(WORKER, "--mode", "all")
        soak = Soak(local, database, failed_share)
        _wait(lambda: database.workers.find_one({"state": WorkerState.IDLE.value}), "the worker to be ready")
        yield soak
    finally:
        database.client.close()
        local.stack.stop()


def _wait(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {WAIT_SECONDS:.0f} s for {what}")
        time.sleep(0.1)


def _row(sample: Sample) -> str:
    return "  ".join(f"{getattr(sample, each.name)!s:>{len(each.name)}}" for each in fields(Sample))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--round", type=int, default=100, help="runs between two samples")
    parser.add_argument("--failed-share", type=int, default=10, help="every so many runs fails")
    parser.add_argument("--kept-folders", type=int, default=20, help="folders of failed runs that may stay")
    given = parser.parse_args()
    print("  ".join(each.name for each in fields(Sample)), flush=True)
    samples = []
    for sample in measure(given.runs, given.round, given.failed_share):
        print(_row(sample), flush=True)
        samples.append(sample)
    grown = verdict(samples, given.kept_folders)
    print(f"grows: {'; '.join(grown)}" if grown else "flat")
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
