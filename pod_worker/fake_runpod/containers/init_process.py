"""Process 1 of a fake pod: runs the pod's command, adopts its orphans, and leaves nothing behind when it ends.

A program of its own, standard library only, started by path so that it costs milliseconds. It takes orders on
stdin: `stop SECONDS` sends SIGTERM to the command and SIGKILL to everything after that time; end of file means
that the server died, and kills at once. Adopting orphans needs Linux; elsewhere only the session is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
NOT_FOUND = 127


def main(command: list[str]) -> int:
    """Runs `command`; returns its exit code, 128 + signal number when a signal ended it."""
    _adopt_orphans()
    wakeup = _wake_on_child_exit()
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    except OSError as error:
        print(f"cannot start {command[0]!r}: {error.strerror}", file=sys.stderr, flush=True)
        return NOT_FOUND
    code = _watch(child.pid, wakeup)
    _kill_everything(child.pid)
    return code


def _watch(pid: int, wakeup: int) -> int:
    deadline: float | None = None
    listening = [0, wakeup]
    while (code := _reap(pid)) is None:
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select(listening, [], [], timeout)
        if wakeup in ready:
            os.read(wakeup, 4096)
        if 0 in ready:
            order = os.read(0, 256)
            notice = _grace_seconds(order)
            until = time.monotonic() + notice
            deadline = until if deadline is None else min(deadline, until)
            if notice > 0:
                os.kill(pid, signal.SIGTERM)
            if not order:
                listening.remove(0)
        if deadline is not None and time.monotonic() >= deadline:
            _kill_everything(pid)
    return code


def _grace_seconds(order: bytes) -> float:
    words = order.split()
    return float(words[1]) if len(words) == 2 and words[0] == b"stop" else 0.0


def _reap(pid: int) -> int | None:
    """Collect whatever ended; the exit code of `pid` once that is among it."""
    code = None
    while True:
        try:
            ended, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return 0 if code is None else code
        if ended == 0:
            return code
        if ended == pid:
            code = os.waitstatus_to_exitcode(status)
            code = 128 - code if code < 0 else code


def _kill_everything(session: int) -> None:
    """SIGKILL to every descendant, again until none is left: a fork bomb may outrun one pass."""
    if sys.platform != "linux":
        _kill_session(session)
        return
    for _ in range(500):
        descendants = _descendants()
        for pid in descendants:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not descendants:
            return
        time.sleep(0.01)


def _descendants() -> list[int]:
    """Living processes below this one, nearest first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            children.setdefault(int(fields[1]), []).append(int(entry.parent.name))
    found: list[int] = []
    queue = [os.getpid()]
    while queue:
        below = children.get(queue.pop(0), [])
        found += below
        queue += below
    return found


def _kill_session(session: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(session, signal.SIGKILL)


def _adopt_orphans() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _wake_on_child_exit() -> int:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return reader


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
