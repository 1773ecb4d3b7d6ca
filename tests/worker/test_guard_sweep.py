"""The guard's sweep: what a child started is gone when the guard reports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from pod_worker.process import tree
from pod_worker.worker.isolation import guard

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


# Four chains of processes, each of which forks and exits at once: none is there for longer than a moment.
FORKS_AND_EXITS = """
import os, sys, time
end = time.monotonic() + 30
for _ in range(4):
    if os.fork() == 0:
        while time.monotonic() < end:
            if os.fork():
                os._exit(0)
            if sys.argv[1] == "session":
                os.setsid()
        os._exit(0)
sys.exit(7)
"""


def is_alive(pid: int) -> bool:
    """False for a zombie: it holds no memory and no GPU."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_what_a_child_left_behind_is_gone_when_the_guard_reports(tmp_path: Path) -> None:
    read, write = os.pipe()
    orders, supervisor = os.pipe()
    noted = tmp_path / "pids"
    child = [sys.executable, "-c", LEAVES_ORPHANS, str(noted)]
    done = subprocess.run(
        [*guard.program(600, (read,), user=None), *child],
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


@pytest.mark.parametrize("new", ["process", "session"])
def test_a_process_that_forks_and_exits_at_once_does_not_outrun_the_sweep(new: str) -> None:
    read, write = os.pipe()
    orders, supervisor = os.pipe()
    tag = f"chain-{os.getpid()}-{new}"
    done = subprocess.run(
        [*guard.program(600, (read,), user=None), sys.executable, "-c", FORKS_AND_EXITS, new],
        stdin=orders,
        stdout=subprocess.PIPE,
        pass_fds=(read,),
        env=os.environ | {"TAG_OF_THE_TEST": tag},
        check=True,
    )
    for end in (read, write, orders, supervisor):
        os.close(end)
    # One look can miss each of them; so many cannot.
    left = {pid for _ in range(100) for pid in tree.pids() if tag.encode() in _environment(pid)}
    assert not left
    assert json.loads(done.stdout) | {"code": 7, "survivors": 0} == json.loads(done.stdout)


def _environment(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""
