"""How soon an idle worker picks a run up, and what it costs to have one idle.

Pickup: from just before enqueue to RUNNING (the child is up), with the change stream and with it shut off (then
the poll has to do, and must not take longer than POLL_SECONDS). Idle: resident memory and CPU time of the
supervisor, and the queries it sends, counted by the server.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from ulid import ULID

from benchmarks.figures import print_figures
from pod_worker.cli.stack.up import LocalStack
from pod_worker.core.clock import SystemClock
from pod_worker.store.mongo import Mongo, connect
from pod_worker.store.queue.run_queue import RunQueue, RunRequest

POLL_SECONDS = 10.0
WORKER_APP = "pod_worker worker"
PARAMS = {"stages": 1, "seconds": 0, "events": 1}


def measure(runs: int, polled_runs: int, idle_seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="pod_worker_bench_") as folder, _stack(Path(folder)) as local:
        database = connect(local.stack.mongodb_url)
        streamed = [_pickup(database, local) for _ in range(runs)]
        idle = _idle(database, local, idle_seconds)
    with (
        tempfile.TemporaryDirectory(prefix="pod_worker_bench_") as folder,
        _stack(Path(folder), no_stream=True) as local,
    ):
        database = connect(local.stack.mongodb_url)
        polled = [_pickup(database, local) for _ in range(polled_runs)]
    return {
        "pickup_p50_s": round(statistics.median(streamed), 3),
        "pickup_max_s": round(max(streamed), 3),
        "polled_p50_s": round(statistics.median(polled), 3),
        "polled_max_s": round(max(polled), 3),
        "poll_seconds": POLL_SECONDS,
        **idle,
        "help_s": round(min(_help_seconds() for _ in range(5)), 3),
        "python_s": round(min(_python_seconds() for _ in range(5)), 3),
    }


@contextmanager
def _stack(folder: Path, no_stream: bool = False) -> Iterator[LocalStack]:
    local = LocalStack(folder, threading.Event())
    local.start()
    try:
        env = {"POD_WORKER_POLL_SECONDS": str(POLL_SECONDS)}
        if no_stream:
            env["POD_WORKER_CHANGE_STREAM"] = "false"
        local.start_worker("worker", "--mode", "all", **env)
        yield local
    finally:
        local.stack.stop()


def _pickup(database: Mongo, local: LocalStack) -> float:
    queue = RunQueue(database, SystemClock())
    _until_idle(database)
    run_id = str(ULID())
    seen = threading.Event()
    began = time.perf_counter()
    queue.enqueue(RunRequest(id=run_id, pipeline="synthetic", params=PARAMS))
    while not seen.is_set():
        document = database.runs.find_one({"_id": run_id}, {"status": 1})
        if document and document["status"] not in ("QUEUED", "SCHEDULED"):
            return time.perf_counter() - began
        time.sleep(0.002)
    return float("nan")


def _until_idle(database: Mongo) -> None:
    while True:
        worker = database.workers.find_one({"state": {"$in": ["idle", "busy"]}})
        if worker and worker["state"] == "idle":
            time.sleep(0.3)  # past the look that follows a run's end
            return
        time.sleep(0.02)


def _idle(database: Mongo, local: LocalStack, seconds: float) -> dict[str, float]:
    pid = local.stack.describe().pids["worker"]
    process = psutil.Process(pid)
    _until_idle(database)
    database.command("profile", 2, filter={"appName": WORKER_APP})
    queries_before, cpu_before = _queries(database), sum(process.cpu_times()[:2])
    own_before = time.perf_counter()
    time.sleep(seconds)
    took = time.perf_counter() - own_before
    queries = (_queries(database) - queries_before) / took
    return {
        "idle_rss_mb": round(process.memory_info().rss / 1e6, 1),
        "idle_cpu_pct": round((sum(process.cpu_times()[:2]) - cpu_before) / took * 100, 2),
        "idle_queries_per_s": round(queries, 3),
    }


def _queries(database: Mongo) -> int:
    """What the worker has asked since profiling began; the change stream's own requests are not counted."""
    asked = {"appName": WORKER_APP, "op": {"$ne": "getmore"}}
    return int(database["system.profile"].count_documents(asked))


def _help_seconds() -> float:
    began = time.perf_counter()
    subprocess.run([str(Path(sys.executable).with_name("pod-worker")), "--help"], capture_output=True, check=True)
    return time.perf_counter() - began


def _python_seconds() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], capture_output=True, check=True)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--polled-runs", type=int, default=4)
    parser.add_argument("--idle-seconds", type=float, default=60)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = measure(arguments.runs, arguments.polled_runs, arguments.idle_seconds)
    print_figures(found, as_json=arguments.json)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
    main()
