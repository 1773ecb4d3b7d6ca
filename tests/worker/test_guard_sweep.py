"""The guard's sweep: in which order it kills, and that nothing is left.

A tree that answers each death with a birth cannot be timed reliably, so there the orders themselves are looked at.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from pod_worker.worker import guard


def test_a_whole_tree_is_stopped_before_any_of_it_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = [[11, 12, 13], [14], []]
    orders: list[tuple[int, int]] = []
    monkeypatch.setattr(guard, "descendants", lambda root: rounds.pop(0))
    monkeypatch.setattr(guard, "send_signal", lambda pid, order: orders.append((order, pid)))

    assert guard.kill_tree(os.getpid()) == 0

    stop, kill = signal.SIGSTOP, signal.SIGKILL
    assert orders == [
        (stop, 11),
        (stop, 12),
        (stop, 13),
        (kill, 11),
        (kill, 12),
        (kill, 13),
        (stop, 14),
        (kill, 14),
    ]


def test_what_cannot_be_killed_is_counted_and_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "descendants", lambda root: [11, 12])
    monkeypatch.setattr(guard, "send_signal", lambda pid, order: None)
    assert guard.kill_tree(os.getpid(), seconds=0.05) == 2


# Starts two sleepers in sessions of their own, one of them as a grandchild whose parent is gone, and ends.
LEAVES_ORPHANS = """
import os, subprocess, sys
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
with open(sys.argv[1], "w") as file:
    print(subprocess.Popen(sleep, start_new_session=True).pid, file=file, flush=True)
    middle = os.fork()
    if middle == 0:
        os.setsid()
        print(subprocess.Popen(sleep, start_new_session=True).pid, file=file, flush=True)
        os._exit(0)
    os.waitpid(middle, 0)
sys.exit(7)
"""


def is_alive(pid: int) -> bool:
    """A zombie waits for somebody to ask how it ended; it holds nothing."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_what_a_child_left_behind_is_gone_when_the_guard_has_its_last_word(tmp_path: Path) -> None:
    read, write = os.pipe()
    orders, supervisor = os.pipe()
    noted = tmp_path / "pids"
    child = [sys.executable, "-c", LEAVES_ORPHANS, str(noted)]
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(Path(guard.__file__)), "600", str(read), "--", *child],
        stdin=orders,  # its other end stays open: the supervisor is there
        stdout=subprocess.PIPE,
        pass_fds=(read,),
        check=True,
    )
    for end in (read, write, orders, supervisor):
        os.close(end)
    orphans = [int(line) for line in noted.read_text().split()]
    left = [pid for pid in orphans if is_alive(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert len(orphans) == 2
    assert left == []
    assert json.loads(done.stdout)["code"] == 7
