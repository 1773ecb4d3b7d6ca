"""Program: run a search in child processes that SIGKILL themselves at random points, until one gets to its end.

Prints one JSON line: how many were killed. Started by test_crash.py; single-threaded, so that it may fork.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from pathlib import Path

from pod_worker.search.tree.journal import read_state
from pod_worker.search.tree.state import SearchState
from tests.search.fakes import FakeModel, FakeSandbox, make_search, random_program

STAGES = ("Stage_1", "Stage_2", "Stage_3", "Stage_4")
_write = os.write


class Countdown:
    """Kills this process at the n-th point."""

    def __init__(self, points: int) -> None:
        self.left = points

    def point(self) -> bool:
        self.left -= 1
        return self.left == 0

    def pass_or_die(self, *_: object) -> None:
        if self.point():
            os.kill(os.getpid(), signal.SIGKILL)

    def write(self, fd: int, data: bytes) -> int:
        if self.point():
            _write(fd, bytes(data)[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return _write(fd, data)


class MortalModel(FakeModel):
    """Notes each paid answer; the process may die before and after the call."""

    def __init__(self, folder: Path, countdown: Countdown) -> None:
        super().__init__(reply=self._paid, folder=folder / "cache")
        self._log = os.open(folder / "paid", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._countdown = countdown

    def complete(self, request):
        self._countdown.pass_or_die()
        answer = super().complete(request)
        self._countdown.pass_or_die()
        return answer

    def _answer(self, request):
        _write(self._log, f"{request.node_id} {request.operation} {request.sample}\n".encode())
        return super()._answer(request)

    @staticmethod
    def _paid(request):
        """Every fifth proposal repeats the same program."""
        return {"score": 0.5, "noise": 0.01} if int(request.facts["seed"]) % 5 == 0 else random_program(request)


def run_until_killed(folder: Path, points: int, slots: int) -> None:
    countdown = Countdown(points)
    for name, replaced in (("write", countdown.write), ("fsync", countdown.pass_or_die)):
        setattr(os, name, replaced)
    model = MortalModel(folder, countdown)
    sandbox = FakeSandbox(before=countdown.pass_or_die)
    options = {"slots": slots, "max_starts": 1_000}
    search = make_search(folder / "search", client=model, runner=sandbox, set=options)
    for stage in STAGES:
        search.run_stage(stage, 4)


def finished_of(state: SearchState) -> dict[str, object]:
    return {node.id: (node.outcome, node.search_score, node.code) for node in state.nodes.values() if node.outcome}


def main(folder: Path, seed: int, reach: int, slots: int) -> None:
    (folder / "cache").mkdir(parents=True)
    rng = random.Random(seed)
    killed, finished = 0, dict[str, object]()
    while True:
        points = rng.randint(1, reach)
        pid = os.fork()
        if pid == 0:
            run_until_killed(folder, points, slots)
            os._exit(0)
        status = os.waitpid(pid, 0)[1]
        if (folder / "search" / "journal.ndjson").exists():
            now = finished_of(read_state(folder / "search"))
            assert finished.items() <= now.items(), "a finished node was lost"
            finished = now
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        killed += 1
    print(json.dumps({"killed": killed}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
