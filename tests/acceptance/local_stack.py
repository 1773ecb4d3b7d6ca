"""A whole local stack of real processes for acceptance tests, and the conditions they wait for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymongo.database import Database

from pod_worker.cli.stack.up import LocalStack

Db = Database[dict[str, Any]]

# Everything quick enough for a test, in the proportions of the defaults.
QUICK = {
    "POD_WORKER_LEASE_SECONDS": "6",
    "POD_WORKER_LEASE_MARGIN_SECONDS": "1.5",
    "POD_WORKER_RENEW_SECONDS": "1",
    "POD_WORKER_POLL_SECONDS": "1",
    "POD_WORKER_HEARTBEAT_SECONDS": "1",
    "POD_WORKER_RESCUE_SECONDS": "1",
    "POD_WORKER_CANCEL_SECONDS": "2",
    "POD_WORKER_KILL_SECONDS": "1",
    "POD_WORKER_GRACE_SECONDS": "20",
    "OMP_NUM_THREADS": "1",
}


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 180.0) -> Any:
    """The condition's first true value; fails the test by name when it does not come."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds:.0f} s for: {what}")


@dataclass(slots=True)
class WorkerProcess:
    process: subprocess.Popen[bytes]
    log: Path

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = 180) -> int:
        return self.process.wait(timeout=seconds)

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")


@dataclass(slots=True)
class Running:
    local: LocalStack
    db: Db
    folder: Path

    def cli(self, *words: str, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "pod_worker", *words],
            capture_output=True,
            text=True,
            env=self.local.env(**env),
            timeout=300,
            check=False,
        )
        if check:
            assert done.returncode == 0, done.stderr
        return done

    def submit(self, pipeline: str, params: dict[str, Any], *words: str) -> str:
        pairs = [f"--param={name}={json.dumps(value)}" for name, value in params.items()]
        done = self.cli("runs", "submit", pipeline, *pairs, *words, "--json")
        return str(json.loads(done.stdout)["id"])

    def run(self, run_id: str) -> dict[str, Any]:
        return self.db.runs.find_one({"_id": run_id}) or {}

    def wait_status(self, run_id: str, *statuses: str, seconds: float = 240) -> dict[str, Any]:
        def reached() -> dict[str, Any] | None:
            run = self.run(run_id)
            return run if run.get("status") in statuses else None

        found: dict[str, Any] = wait_for(reached, f"run {run_id} to be {' or '.join(statuses)}", seconds)
        return found

    @contextmanager
    def worker(
        self,
        name: str,
        *words: str,
        ignored: Sequence[signal.Signals] = (),
        interpreter: str = sys.executable,
        **env: str,
    ) -> Iterator[WorkerProcess]:
        """A worker of its own, with its own spool; killed at the end if it is still there.

        `ignored` signals are inherited as such, as from nohup or for a background job.
        """
        log = self.folder / f"{name}.log"
        folders = {
            "POD_WORKER_SPOOL_DIR": str(self.folder / f"spool-{name}"),
            "POD_WORKER_WORK_DIR": str(self.folder / f"work-{name}"),
            "RUNPOD_POD_ID": name,
        }
        with open(log, "wb") as file:
            process = subprocess.Popen(
                [interpreter, "-m", "pod_worker", "worker", "--mode", "all", *words],
                env=self.local.worker_env(**(QUICK | folders | env)),
                stdout=file,
                stderr=file,
                preexec_fn=lambda: [signal.signal(number, signal.SIG_IGN) for number in ignored] and None,
            )
        try:
            yield WorkerProcess(process, log)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()

    def spool_ids(self, name: str, run_id: str) -> set[str]:
        """Every id of the event log's kinds that this worker's spools hold for the run."""
        from pod_worker.core.payload import PAYLOADS
        from pod_worker.outbox.spool import Spool

        found: set[str] = set()
        for directory in (self.folder / f"spool-{name}").glob("worker-*"):
            spool = Spool.attach(directory)
            for line in spool.lines():
                event = json.loads(line)
                if event["subject"] == f"run/{run_id}" and not PAYLOADS[event["type"]].transient:
                    found.add(event["id"])
            spool.close()
        return found

    def stored_ids(self, run_id: str) -> set[str]:
        return {str(event["_id"]) for event in self.db.events.find({"runId": run_id}, {"_id": 1})}


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def ignored_signals(pid: int) -> set[int]:
    """Numbers of the signals that a process ignores, from the mask in its status (proc(5))."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    mask = int(next(line for line in lines if line.startswith("SigIgn:")).split()[1], 16)
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}
