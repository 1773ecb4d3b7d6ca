"""Attempts of a command that end by SIGKILL at random moments, until `kills` were sent.

Run as `python -m tests.stages.killed_command FOLDER SEED KILLS STEPS`: a process without threads, which forks the
stage of each attempt. The kill takes the stage and the job, as a lost pod does. The next attempt begins on the same
pod, whose files are as the kill left them, or on an empty one. A job that ends before all kills were sent is
followed by another one. Every other kill comes after a snapshot of its attempt. Prints the figures as JSON.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from pod_worker.command.reports import events_file
from pod_worker.core.clock import SystemClock
from pod_worker.core.payload import Payload
from pod_worker.core.run import Checkpoint, Run, RunStatus
from pod_worker.process.tree import become_subreaper, kill_tree
from pod_worker.snapshots import draft, snapshot_store
from pod_worker.stages.command import COMMAND
from pod_worker.stages.context import StageContext, StopFlag
from tests.stages.checkpointing_job import result
from tests.training.context import FolderArtifacts

JOB = Path(__file__).with_name("checkpointing_job.py")
LONGEST_SECONDS = 0.8  # from the start of an attempt, or from its first snapshot, to its kill


class Emitter:
    def emit(self, payload: Payload) -> str:
        return ""


def execute(folder: Path, pod: str, attempt: int, steps: int) -> None:
    """One attempt, in this process."""
    events_file.POLL_SECONDS = snapshot_store._POLL_SECONDS = 0.02
    draft._RETRY_SECONDS = (0.0, 0.01, 0.02, 0.05, 0.1)
    snapshot_store.REQUEST_PAUSE_SECONDS = 0.0
    state_file = folder / "state.json"  # of the run document
    state: dict[str, Any] = json.loads(state_file.read_text()) if state_file.exists() else {}
    argv = [sys.executable, "-S", str(JOB), str(steps), str(folder / "evidence")]
    run = Run(
        "r",
        "command",
        "command",
        RunStatus.RUNNING,
        {"run": argv, "checkpoint_every": 1},
        attempt=attempt,
        checkpoints={"command": Checkpoint("command", False, state)} if state else {},
    )

    def save(stage: str, saved: dict[str, Any]) -> None:
        new = folder / f"state.{attempt}"
        new.write_text(json.dumps(saved))
        os.replace(new, state_file)

    work_dir = folder / pod / "r"
    work_dir.mkdir(parents=True, exist_ok=True)
    context = StageContext(
        run,
        "command",
        work_dir=work_dir,
        emitter=Emitter(),
        artifacts=FolderArtifacts(folder / "store", attempt),
        stop=StopFlag(),
        save=save,
        clock=SystemClock(),
    )
    COMMAND.run(context)


def start(folder: Path, pod: str, attempt: int, steps: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        quiet = os.open(folder / "output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        execute(folder, pod, attempt, steps)
        code = 0
    finally:
        os._exit(code)


def ended(pid: int, seconds: float, also: Callable[[], bool] = lambda: True) -> int | None:
    """The wait status of a process; None when the time is over and `also` is true."""
    end = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return status
        if time.monotonic() >= end and also():
            return None
        time.sleep(0.005)


def until_kill(pid: int, rng: random.Random, job: Path, is_after_snapshot: bool) -> int | None:
    """Wait for a random moment; the status of an attempt that ends before it."""
    if is_after_snapshot:
        before = version(job)
        if (status := ended(pid, 0.0, lambda: version(job) != before)) is not None:
            return status
    return ended(pid, rng.uniform(0, LONGEST_SECONDS))


def version(job: Path) -> int:
    """Of the run document; it changes with each snapshot."""
    state = job / "state.json"
    return state.stat().st_mtime_ns if state.exists() else 0


def main(folder: Path, seed: int, kills: int, steps: int) -> dict[str, Any]:
    become_subreaper()
    rng = random.Random(seed)
    sent, late, jobs, wrong, halves, resumed, attempts = 0, 0, 0, 0, 0, 0, 0
    while sent < kills or (kills > 1 and not late):
        job, pods = folder / f"job-{jobs}", count()
        job.mkdir(parents=True)
        pod = f"pod-{next(pods)}"
        for attempt in count(1):
            attempts += 1
            pid = start(job, pod, attempt, steps)
            is_late = attempts % 2 == 0
            if sent < kills or not late:
                status = until_kill(pid, rng, job, is_late)
            else:
                _, status = os.waitpid(pid, 0)
            if status is not None:
                break
            os.kill(pid, signal.SIGKILL)
            kill_tree(os.getpid())
            sent, late = sent + 1, late + is_late
            pod = rng.choice([pod, f"pod-{next(pods)}"])
        jobs += 1
        found = [path.read_text() for path in (job / "store").rglob("result")]
        wrong += status != 0 or not found or set(found) != {result(steps)}
        evidence = job / "evidence"  # not written by a job of one attempt
        lines = evidence.read_text().splitlines() if evidence.exists() else []
        halves += sum(line.startswith("half") for line in lines)
        resumed += sum(line.startswith("resumed") for line in lines)
    return {
        "kills": sent,
        "kills_after_a_snapshot": late,
        "attempts": attempts,
        "jobs": jobs,
        "wrong_results": wrong,
        "half_snapshots": halves,
        "resumed": resumed,
    }


if __name__ == "__main__":
    where, *numbers = sys.argv[1:]
    print(json.dumps(main(Path(where), *map(int, numbers))))
