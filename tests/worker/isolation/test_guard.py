"""The guard on real processes: whatever happens to supervisor or child, no process is left, in time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

from pod_worker.worker.isolation import guard

ORPHANS = (
    "import subprocess, sys, time\n"
    "for _ in range(3):\n"
    "    subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
    "print('up', flush=True)\n"
    "time.sleep(600)\n"
)


@contextmanager
def guarded(program: str, lease_seconds: float) -> Iterator[subprocess.Popen[bytes]]:
    """The guard with a Python program as its child; it is entered when the child has printed `up`."""
    read, write = os.pipe()
    argv = guard.program(lease_seconds, (read,), user=None)
    process = subprocess.Popen(
        [*argv, sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=(read,),
        start_new_session=True,
    )
    os.close(read)
    try:
        assert process.stderr is not None
        assert process.stderr.readline() == b"up\n"
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()
        os.close(write)


def report_of(process: subprocess.Popen[bytes]) -> dict[str, object]:
    assert process.stdout is not None
    found: dict[str, object] = json.loads(process.stdout.read())
    process.wait(10)
    return found


def send(process: subprocess.Popen[bytes], text: str) -> None:
    assert process.stdin is not None
    process.stdin.write(text.encode())
    process.stdin.flush()


def tree_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def living(tree: list[psutil.Process]) -> list[psutil.Process]:
    return [each for each in tree if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


def test_the_tree_is_gone_when_the_trust_is_over() -> None:
    began = time.monotonic()
    with guarded(ORPHANS, 1.0) as process:
        tree = tree_of(process)
        assert len(tree) == 4
        report = report_of(process)
        assert report["lease_expired"] is True
        assert report["survivors"] == 0
        assert not living(tree)
        assert 0.9 < time.monotonic() - began < 10


def test_trust_is_prolonged_by_the_supervisor() -> None:
    with guarded("print('up', flush=True); import time; time.sleep(1.5)", 1.0) as process:
        send(process, "lease 60\n")
        report = report_of(process)
    assert report == {"code": 0, "signal": None, "lease_expired": False, "killed": False, "survivors": 0}


def test_the_tree_is_gone_when_the_supervisor_is() -> None:
    with guarded(ORPHANS, 600) as process:
        tree = tree_of(process)
        assert process.stdin is not None
        process.stdin.close()
        report = report_of(process)
        assert report["killed"] is True
        assert not living(tree)


def test_orphans_do_not_outlive_a_child_that_exits() -> None:
    program = ORPHANS.rsplit("time.sleep(600)", 1)[0]
    with guarded(program + "sys.exit(7)\n", 600) as process:
        report = report_of(process)
    assert report["code"] == 7
    assert report["survivors"] == 0


def test_term_reaches_the_child_and_kill_reaches_a_child_that_ignores_it() -> None:
    ignore = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    program = f"{ignore}; print('up', flush=True); time.sleep(600)"
    with guarded(program, 600) as process:
        child = tree_of(process)[0]
        send(process, "term\n")
        send(process, "lease 600\n")
        assert child.is_running()
        send(process, "kill\n")
        assert report_of(process)["signal"] == signal.SIGKILL

    with guarded("print('up', flush=True); import time; time.sleep(600)", 600) as process:
        send(process, "term\n")
        report = report_of(process)
    assert report["signal"] == signal.SIGTERM
    assert report["killed"] is False


def test_a_terminal_interrupt_is_not_for_the_guard() -> None:
    with guarded("print('up', flush=True); import time; time.sleep(600)", 600) as process:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            process.send_signal(number)
        send(process, "kill\n")
        assert report_of(process)["signal"] == signal.SIGKILL


def test_a_child_dies_with_a_guard_that_was_killed() -> None:
    with guarded("print('up', flush=True); import time; time.sleep(600)", 600) as process:
        child = tree_of(process)[0]
        process.kill()
        process.wait()
        child.wait(10)
        assert not living([child])
