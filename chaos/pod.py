"""A pod as the harness plays it: folders of its own, a small disk for the spool, links, and one worker process.

The worker is the real command with a real environment. When it dies, the pod starts a fresh one, as a pod's
start command would. The pod does not know about faults.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from chaos.proxy import Link
from pod_worker.local.process import ChildProcess
from pod_worker.outbox.backlog import Backlog
from pod_worker.stages.synthetic import EVIDENCE_FILE_VARIABLE

SPOOL_DISK_MB = 48


@dataclass(frozen=True, slots=True)
class ProcessTree:
    """The living processes below a worker; None for what is not there."""

    worker: int | None
    guard: int | None
    child: int | None
    rest: tuple[int, ...] = ()

    def all(self) -> list[int]:
        return [pid for pid in (self.worker, self.guard, self.child, *self.rest) if pid is not None]


class Pod:
    def __init__(
        self, name: str, root: Path, env: Mapping[str, str], links: Mapping[str, tuple[Link, ...]]
    ) -> None:
        self.name = name
        self.root = root
        self.links = links  # db, ingest
        self.spool_dir = root / "spool"
        self.evidence = root / "evidence.ndjson"
        self.processes: list[ChildProcess] = []  # the youngest last; usually one
        self.has_small_disk = False
        self._clock_file = root / "clock"
        self._filler = self.spool_dir / "filler"
        self._starts = 0
        self._env = dict(env)

    def prepare(self) -> None:
        """Folders, and a small disk of its own for the spool where this user may mount one."""
        self.spool_dir.mkdir(parents=True)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={SPOOL_DISK_MB}m", "chaos-spool", str(self.spool_dir)]
        self.has_small_disk = subprocess.run(mount, capture_output=True, check=False).returncode == 0
        self.set_clock(0)

    def release(self) -> None:
        if self.has_small_disk:
            subprocess.run(["umount", "-l", str(self.spool_dir)], capture_output=True, check=False)
            self.has_small_disk = False

    # ── the worker ──────────────────────────────────────────────────────────────────────────────────────

    def start_worker(self) -> ChildProcess:
        self._starts += 1
        argv = [sys.executable, "-m", "pod_worker", "worker", "--mode", "all"]
        log = self.root / f"worker-{self._starts}.log"
        process = ChildProcess(f"{self.name}.{self._starts}", argv, log, env=self._environment())
        process.start()
        self.processes.append(process)
        return process

    def reap(self) -> list[tuple[ChildProcess, int]]:
        """The workers that have ended since the last look, with their exit codes."""
        ended = [(each, code) for each in self.processes if (code := each.exit_code()) is not None]
        self.processes = [each for each in self.processes if each not in {process for process, _ in ended}]
        return ended

    def signal_worker(self, number: signal.Signals) -> int | None:
        """To the youngest worker; its pid, or None when there is none."""
        if not self.processes or not self.processes[-1].is_running():
            return None
        self.processes[-1].signal(number)
        return self.processes[-1].pid

    def tree(self) -> ProcessTree:
        """Of the youngest worker."""
        if not self.processes or not self.processes[-1].is_running():
            return ProcessTree(None, None, None)
        worker = self.processes[-1].pid
        try:
            below = psutil.Process(worker).children(recursive=True)
        except psutil.Error:
            return ProcessTree(worker, None, None)
        guard = next((each for each in below if _is_guard(each)), None)
        child = next((each for each in below if guard and _parent(each) == guard.pid), None)
        rest = tuple(each.pid for each in below if each not in (guard, child))
        return ProcessTree(worker, guard.pid if guard else None, child.pid if child else None, rest)

    def undelivered_bytes(self) -> int:
        """What the spools here hold that ingest has not answered for."""
        streams = [stream for spool in self.spool_dir.glob("worker-*") for stream in spool.glob("*-*")]
        return sum(Backlog(stream).pending_bytes() for stream in streams if stream.is_dir())

    # ── its disk and its clock ──────────────────────────────────────────────────────────────────────────

    def fill_disk(self) -> int:
        """Leave no byte of the spool's disk; returns how many were free."""
        written = 0
        with self._filler.open("wb", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                try:
                    while True:
                        written += file.write(b"\0" * size)
                except OSError:
                    continue
        return written

    def free_disk(self) -> None:
        self._filler.unlink(missing_ok=True)

    def set_clock(self, offset_seconds: int) -> None:
        """How far the wall clock of workers here is off; replaced in one step, because it is being read."""
        fresh = self._clock_file.with_suffix(".new")
        fresh.write_text(str(offset_seconds))
        os.replace(fresh, self._clock_file)

    def _environment(self) -> dict[str, str]:
        return self._env | {
            "RUNPOD_POD_ID": self.name,
            "POD_WORKER_SPOOL_DIR": str(self.spool_dir),
            "POD_WORKER_WORK_DIR": str(self.root / "work"),
            "CHAOS_CLOCK_FILE": str(self._clock_file),
            "POD_WORKER_CHILD_ENV": "CHAOS_CLOCK_FILE,CHAOS_SABOTAGE",
            EVIDENCE_FILE_VARIABLE: str(self.evidence),
        }


def send(pid: int | None, number: signal.Signals) -> None:
    if pid is not None:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def _is_guard(process: psutil.Process) -> bool:
    try:
        return any(word.endswith("worker/isolation/guard.py") for word in process.cmdline())
    except psutil.Error:
        return False


def _parent(process: psutil.Process) -> int:
    try:
        return int(process.ppid())
    except psutil.Error:
        return 0
