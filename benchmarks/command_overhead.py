"""What a run of the pipeline `command` costs beside its program.

A command that does nothing, with a working directory of 2 000 files and 50 MB that the pod had before. Measured is
the stage (files, environment, program, snapshot, outputs), and the whole run from RUNNING to its end, which also
starts the process of the run.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from ulid import ULID

from benchmarks.figures import print_figures
from benchmarks.workdir_upload import write_tree
from pod_worker.cli.stack.up import LocalStack
from pod_worker.content.tree import scan
from pod_worker.content.upload_client import ContentClient
from pod_worker.core.clock import SystemClock
from pod_worker.store.mongo import Mongo, connect
from pod_worker.store.queue.run_queue import RunQueue, RunRequest

RUN_SECONDS = 120.0


def measure(runs: int, files: int, megabytes: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="pod_worker_bench_") as name:
        root = Path(name)
        local = LocalStack(root / "stack", threading.Event())
        local.start()
        try:
            local.start_worker("worker", "--mode", "all")
            tree = scan(write_tree(root / "job", files, megabytes))
            manifest = ContentClient(local.url, local.token).upload(tree)
            workdir = {"manifest": manifest, "files": tree.files, "bytes": tree.bytes}
            database = connect(local.stack.mongodb_url)
            cold, *warm = [_run(database, {"run": ["true"], "workdir": workdir}) for _ in range(runs + 1)]
            empty = [_run(database, {"run": ["true"]}) for _ in range(runs)]
            copies = [_seconds("cp", "-r", str(tree.root), str(root / f"copy-{number}")) for number in range(runs)]
        finally:
            local.stack.stop()
    return {
        "bare_s": round(min(_seconds("true") for _ in range(runs)), 4),
        "cp_p50_s": round(statistics.median(copies), 3),
        "stage_p50_s": round(statistics.median(stage for stage, _ in warm), 3),
        "run_p50_s": round(statistics.median(whole for _, whole in warm), 3),
        "stage_without_workdir_p50_s": round(statistics.median(stage for stage, _ in empty), 3),
        "run_without_workdir_p50_s": round(statistics.median(whole for _, whole in empty), 3),
        "cold_stage_s": round(cold[0], 3),
        "load": round(os.getloadavg()[0], 1),
    }


def _run(database: Mongo, params: dict[str, Any]) -> tuple[float, float]:
    """Seconds of the stage, and of the run from RUNNING to its end."""
    run_id = str(ULID())
    RunQueue(database, SystemClock()).enqueue(RunRequest(id=run_id, pipeline="command", params=params))
    _wait(database, run_id, "RUNNING")
    began = time.perf_counter()
    _wait(database, run_id, "COMPLETED")
    whole = time.perf_counter() - began
    end = time.monotonic() + RUN_SECONDS
    while time.monotonic() < end:
        stage = database.stages.find_one({"runId": run_id})
        if stage and (seconds := stage.get("durationS")) is not None:
            return float(seconds), whole
        time.sleep(0.02)
    raise SystemExit(f"run {run_id} has no finished stage")


def _wait(database: Mongo, run_id: str, wanted: str) -> None:
    end = time.monotonic() + RUN_SECONDS
    while time.monotonic() < end:
        document = database.runs.find_one({"_id": run_id}, {"status": 1})
        status = document["status"] if document else None
        if status in (wanted, "COMPLETED"):
            return
        if status in ("FAILED", "CANCELED"):
            raise SystemExit(f"run {run_id} ended as {status}")
        time.sleep(0.002)
    raise SystemExit(f"run {run_id} did not become {wanted}")


def _seconds(*argv: str) -> float:
    began = time.perf_counter()
    subprocess.run(argv, check=True)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--megabytes", type=int, default=50)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = measure(arguments.runs, arguments.files, arguments.megabytes)
    print_figures(found, as_json=arguments.json)


if __name__ == "__main__":
    main()
