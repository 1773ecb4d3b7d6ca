"""The tag in the environment of every process of an attempt (Linux).

It also searches for tagged processes.

The tag names the attempt and, as its scope, the work root of the worker. A search finds only processes of the
same work root: two workers with roots of their own on one machine never touch each other's runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from pod_worker.process import tree

ATTEMPT_VARIABLE = "POD_WORKER_ATTEMPT_TAG"  # POD_WORKER_ATTEMPT is the number that a command is given
WORK_ROOT_VARIABLE = "POD_WORKER_WORK_ROOT"
GUARD_SCRIPT = b"worker/isolation/guard.py"


@dataclass(frozen=True, slots=True)
class AttemptTag:
    run_id: str
    attempt: int
    work_root: Path

    def variables(self) -> dict[str, str]:
        return {
            ATTEMPT_VARIABLE: f"{self.run_id}/{self.attempt}",
            WORK_ROOT_VARIABLE: str(self.work_root),
        }


def processes_with_tag(tag: AttemptTag) -> list[int]:
    """Processes of this attempt, whatever they forked into."""
    wanted = {f"{name}={value}".encode() for name, value in tag.variables().items()}
    return [pid for pid in tree.pids() if wanted <= set(_words(pid, "environ"))]


def unguarded_processes(work_root: Path, dedicated_uids: Collection[int] = ()) -> list[int]:
    """Processes of runs of this work root without a guard above them.

    `dedicated_uids` are users that only runs have: without a capability, root cannot read the environment of their
    processes, but an unguarded one is an orphan, whatever its work root was.

    A run's process always has its guard above it, whatever it forked into. One without belonged to a worker that
    was killed in the same moment as its guard.
    """
    scope = f"{WORK_ROOT_VARIABLE}={work_root}".encode()
    tagged = [pid for pid in tree.pids() if scope in _words(pid, "environ") or _is_hidden_run(pid, dedicated_uids)]
    # Any guard of the machine: its environment cannot be read, its command line can.
    guards = {pid for pid in tree.pids() if any(word.endswith(GUARD_SCRIPT) for word in _words(pid, "cmdline"))}
    watched = guards | {pid for each in guards for pid in tree.descendants(each)}
    return [pid for pid in tagged if pid not in watched]


def kill_unguarded(work_root: Path, dedicated_uids: Collection[int] = ()) -> list[int]:
    """SIGKILL them, so that the GPU is free before a claim; returns their pids."""
    found = unguarded_processes(work_root, dedicated_uids) if sys.platform == "linux" else []
    for pid in found:
        tree.send_signal(pid, 9)
    return found


def _is_hidden_run(pid: int, dedicated_uids: Collection[int]) -> bool:
    try:
        if os.stat(f"/proc/{pid}").st_uid not in dedicated_uids:
            return False
        with open(f"/proc/{pid}/environ", "rb") as file:
            file.read(1)
    except PermissionError:
        return True
    except OSError:
        pass
    return False


def _words(pid: int, name: str) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes().split(b"\0")
    except OSError:
        return []
