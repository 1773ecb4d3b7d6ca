"""A queue system under test, ours or a peer's: two workers, an enqueuer, and the file in which tasks show up.

Workers run as their manuals say, one task at a time each. What a worker is killed with is SIGKILL to it and to
everything below it, as when a pod goes away; another worker is started at once, as a supervisor would.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil
from ulid import ULID

from benchmarks.environments import ROOT, START_SECONDS, postgres, python_for, redis
from pod_worker.cli.stack.up import LocalStack
from pod_worker.core.clock import SystemClock
from pod_worker.local.process import ChildProcess
from pod_worker.store.mongo import connect
from pod_worker.store.queue.run_queue import RunQueue, RunRequest

WORKERS = 2
# Modest enough that a slow machine's pause is not taken for a death.
OUR_BEST = {
    "POD_WORKER_LEASE_SECONDS": "9",
    "POD_WORKER_RENEW_SECONDS": "3",
    "POD_WORKER_RESCUE_SECONDS": "1",
    "POD_WORKER_POLL_SECONDS": "1",
}


@dataclass(frozen=True)
class Start:
    """A task that began: when (boot clock), and in which process."""

    at: float
    pid: int


class TaskLog:
    """The file to which every task adds a line when it begins."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def starts(self) -> dict[str, list[Start]]:
        found: dict[str, list[Start]] = {}
        for line in self.path.read_text().splitlines() if self.path.exists() else []:
            each = json.loads(line)
            if each["what"] == "began":
                found.setdefault(each["run"], []).append(Start(each["boot"], each["pid"]))
        return found

    def wait_for(self, keys: list[str], seconds: float) -> dict[str, list[Start]]:
        """All that began, once each of these has. Raises SystemExit after so long."""
        deadline = time.monotonic() + seconds
        while not (found := self.starts()).keys() >= set(keys):
            if time.monotonic() > deadline:
                raise SystemExit(f"{len(set(keys) - found.keys())} of {len(keys)} tasks never began: {self.path}")
            time.sleep(0.02)
        return found


class QueueSystem(Protocol):
    name: str
    durability: str
    evidence: TaskLog

    def __enter__(self) -> QueueSystem: ...
    def __exit__(self, *exc: object) -> None: ...
    def start_worker(self) -> None: ...
    def enqueue(self, name: str, count: int, *, seconds: float = 0, pause: float = 0) -> dict[str, float]:
        """Key → when its enqueue began (boot clock)."""
        ...

    def worker_pids(self) -> list[int]: ...


def kill_worker_of(side: QueueSystem, pid: int) -> float:
    """SIGKILL the worker that runs the task in process `pid`, and all below it; when that was."""
    for worker in side.worker_pids():
        tree = [psutil.Process(worker), *psutil.Process(worker).children(recursive=True)]
        if pid in {each.pid for each in tree}:
            at = time.clock_gettime(time.CLOCK_BOOTTIME)
            for each in tree:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
            return at
    raise SystemExit(f"{side.name}: process {pid} belongs to none of its workers")


# ── ours ────────────────────────────────────────────────────────────────────────────────────────────────────


class PodWorkerSystem:
    name = "pod_worker"
    durability = "MongoDB, w:majority with journal"

    def __init__(self, folder: Path, *, is_best: bool = False) -> None:
        self.evidence = TaskLog(folder / "evidence")
        self._local = LocalStack(folder, threading.Event())
        self._more = {"SYNTHETIC_EVIDENCE": str(self.evidence.path)} | (OUR_BEST if is_best else {})
        self._workers: list[str] = []

    def __enter__(self) -> QueueSystem:
        self._local.start()
        self._queue = RunQueue(connect(self._local.stack.mongodb_url), SystemClock())
        for _ in range(WORKERS):
            self.start_worker()
        return self

    def __exit__(self, *exc: object) -> None:
        self._local.stack.kill()

    def start_worker(self) -> None:
        self._workers.append(f"worker-{len(self._workers) + 1}")
        self._local.start_worker(self._workers[-1], "--mode", "all", **self._more)

    def enqueue(self, name: str, count: int, *, seconds: float = 0, pause: float = 0) -> dict[str, float]:
        began = {}
        for _ in range(count):
            run_id = str(ULID())
            began[run_id] = time.clock_gettime(time.CLOCK_BOOTTIME)
            params = {"stages": 1, "seconds": seconds, "events": 1}
            self._queue.enqueue(RunRequest(run_id, "synthetic", params))
            time.sleep(pause)
        return began

    def worker_pids(self) -> list[int]:
        pids = self._local.stack.describe().pids
        return [pids[name] for name in self._workers if psutil.pid_exists(pids[name])]


# ── peers ───────────────────────────────────────────────────────────────────────────────────────────────────


class PeerSystem:
    """`system` is its environment and its module in `peer_tasks`; `words` start one worker that does one task
    at a time."""

    def __init__(self, system: str, folder: Path, *, durable: bool = True, is_best: bool = False) -> None:
        names = {"celery": "Celery", "rq": "RQ", "dramatiq": "Dramatiq", "procrastinate": "Procrastinate"}
        self.system, self.folder = system, folder
        self._on_redis = system != "procrastinate"
        store = "Redis" if self._on_redis else "PostgreSQL"
        self.name = f"{names[system]} + {store}"
        self._durable, self._is_best = durable, is_best
        kept = "fsync at each write" if durable else "snapshots (as shipped)"
        self.durability = f"Redis, {kept}" if self._on_redis else "PostgreSQL, synchronous_commit (as shipped)"
        self.evidence = TaskLog(folder / "evidence")
        self._processes: list[ChildProcess] = []
        self._exits = contextlib.ExitStack()

    def __enter__(self) -> QueueSystem:
        home = self.folder / "server"
        server = redis(home, durable=self._durable) if self._on_redis else postgres(home)
        with self._exits as exits:
            self._env = os.environ | {
                "PYTHONPATH": str(ROOT),
                "PEER_BROKER": exits.enter_context(server),
                "PEER_BEST": "1" if self._is_best else "0",
                "SYNTHETIC_EVIDENCE": str(self.evidence.path),
            }
            self._python = python_for(self.system)
            if not self._on_redis:
                self._run("-m", "procrastinate", "--app", _module(self.system) + ".app", "schema", "--apply")
            self._enqueuer = self._start_enqueuer()
            exits.callback(self._enqueuer.kill)
            for _ in range(WORKERS):
                self.start_worker()
            self._exits = exits.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        for process in self._processes:
            process.kill()
        self._exits.close()

    def start_worker(self) -> None:
        number = len(self._processes)
        command, *words = _worker_words(self.system, number, self._is_best, self._env["PEER_BROKER"])
        argv = [str(Path(self._python).with_name(command)), *words]
        log = self.folder / f"worker-{number}.log"
        process = ChildProcess(f"{self.system} worker", argv, log, env=self._env, cwd=self.folder)
        process.start()
        self._processes.append(process)

    def enqueue(self, name: str, count: int, *, seconds: float = 0, pause: float = 0) -> dict[str, float]:
        stdin, stdout = self._enqueuer.stdin, self._enqueuer.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps({"name": name, "count": count, "seconds": seconds, "pause": pause}) + "\n")
        stdin.flush()
        began: dict[str, float] = json.loads(stdout.readline())
        return began

    def worker_pids(self) -> list[int]:
        return [process.pid for process in self._processes if process.is_running()]

    def _start_enqueuer(self) -> subprocess.Popen[str]:
        argv = [self._python, "-m", "benchmarks.peer_tasks.enqueuer", f"{self.system}_app"]
        pipe = subprocess.PIPE
        return subprocess.Popen(argv, env=self._env, cwd=self.folder, stdin=pipe, stdout=pipe, text=True)

    def _run(self, *words: str) -> None:
        done = subprocess.run(
            [self._python, *words], env=self._env, cwd=self.folder, capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(words)} failed:\n{done.stdout}{done.stderr}")


def _module(system: str) -> str:
    return f"benchmarks.peer_tasks.{system}_app"


def _worker_words(system: str, number: int, is_best: bool, broker: str) -> list[str]:
    """What starts one worker with one place."""
    words: dict[str, Callable[[], list[Any]]] = {
        "celery": lambda: [
            "celery",
            "-A",
            _module(system),
            "worker",
            "-c",
            1,
            "-n",
            f"w{number}@%h",
            "-l",
            "error",
        ],
        "rq": lambda: (
            ["rq", "worker", "--url", broker, "--quiet"]
            + (["--maintenance-interval", 2, "--job-monitoring-interval", 1] if is_best else [])
        ),
        "dramatiq": lambda: ["dramatiq", _module(system), "--processes", 1, "--threads", 1],
        "procrastinate": lambda: ["procrastinate", "--app", _module(system) + ".app", "worker", "-c", 1],
    }
    return [str(word) for word in words[system]()]


def until_started(side: QueueSystem) -> None:
    """Until every worker has done something: twice as many tasks as places, each long enough to need both."""
    keys = side.enqueue(f"warm-{time.monotonic_ns()}", 2 * WORKERS, seconds=0.3)
    side.evidence.wait_for(list(keys), START_SECONDS)
    time.sleep(1.0)


__all__ = ["PeerSystem", "PodWorkerSystem", "QueueSystem", "Start", "TaskLog", "kill_worker_of", "until_started"]
