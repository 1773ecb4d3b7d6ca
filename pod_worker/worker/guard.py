"""The guard: a tiny process between the supervisor and a run's child that makes the GPU free, whatever happens.

It is the parent of the child and the subreaper of everything the child leaves behind, so a double fork or a new
session escapes nothing. It kills the whole tree when the trusted time of the lease runs out, when the supervisor
says so, or when the supervisor is gone (its pipe closes). It holds no GIL that the run could starve, talks to no
network, and imports only the standard library so that it starts in milliseconds; it is run as a script.

Orders come on stdin, one a line: `lease SECONDS` (trust for so long from now), `term` (SIGTERM to the child's
group), `kill`. The last word goes to stdout as one JSON line: {"code", "signal", "fenced", "left", "killed"}.

It does not protect against a run that kills processes of its own user on purpose: that is the sandbox's part.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
SWEEP_SECONDS = 10.0  # how long to go on killing a tree that keeps growing


def now() -> float:
    """Seconds that go on while the machine is suspended (Linux): a lease must not look fresh after a resume."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if sys.platform == "linux" else time.monotonic()


def become_subreaper() -> None:
    """Orphans of our descendants become our children instead of init's (Linux, prctl(2))."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent() -> None:
    """For a child between fork and exec: SIGKILL when the parent dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def descendants(root: int) -> list[int]:
    """Every living process below `root`, by one pass over /proc; zombies are not counted."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (stat := _stat(int(name))) and stat[0] != "Z":
            children.setdefault(stat[1], []).append(int(name))
    found, todo = [], [root]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def _stat(pid: int) -> tuple[str, int] | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state, parent = file.read().rpartition(b")")[2].split()[:2]
    except (OSError, ValueError):
        return None
    return state.decode(), int(parent)


def kill_tree(root: int, seconds: float = SWEEP_SECONDS) -> int:
    """SIGKILL everything below `root` until nothing is left; returns how many are (0 unless unkillable).

    Each round stops the whole tree before it kills, so that a fork bomb cannot outrun the sweep.
    """
    end = time.monotonic() + seconds
    while (left := descendants(root)) and time.monotonic() < end:
        for order in (signal.SIGSTOP, signal.SIGKILL):
            for pid in left:
                send_signal(pid, order)
        _reap()
        time.sleep(0.005)
    return len(left)


def send_signal(pid: int, order: int) -> None:
    try:
        os.kill(pid, order)
    except ProcessLookupError:
        pass


def _reap() -> dict[int, int]:
    """The wait statuses of whoever has ended."""
    statuses: dict[int, int] = {}
    try:
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            statuses[pid] = status
    except ChildProcessError:
        pass
    return statuses


class Guard:
    def __init__(self, argv: list[str], pass_fds: tuple[int, ...], lease_seconds: float) -> None:
        self._deadline = now() + lease_seconds
        self._orders = b""
        self._killed = False
        self._fenced = False
        self._status: int | None = None
        # Before the child exists, so that its end cannot be missed.
        self._woken, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake)
        self._child = subprocess.Popen(
            argv,
            stdin=pass_fds[0],
            stdout=2,
            pass_fds=pass_fds[1:],
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        for fd in pass_fds:
            os.close(fd)  # so that the supervisor sees the end of the child's pipes

    def watch(self) -> dict[str, object]:
        while self._status is None:
            wait = max(min(self._deadline - now(), 1.0), 0.0)
            commands = [] if self._killed else [0]  # a closed pipe is readable for ever
            readable, _, _ = select.select([*commands, self._woken], [], [], wait)
            if self._woken in readable:
                os.read(self._woken, 4096)
            if 0 in readable:
                self._handle_commands(os.read(0, 4096))
            if now() >= self._deadline and not self._killed:
                self._fenced = True
                self._kill()
            self._status = _reap().get(self._child.pid, self._status)
        left = kill_tree(os.getpid())
        return self._report(left)

    def _handle_commands(self, received: bytes) -> None:
        if not received:  # the supervisor is gone
            self._kill()
        *lines, self._orders = (self._orders + received).split(b"\n")
        for line in lines:
            word, _, argument = line.decode().partition(" ")
            if word == "lease":
                self._deadline = now() + float(argument)
            elif word == "term":
                self._terminate()
            elif word == "kill":
                self._kill()

    def _terminate(self) -> None:
        try:
            os.killpg(self._child.pid, signal.SIGTERM)
        except ProcessLookupError:
            pass

    def _kill(self) -> None:
        self._killed = True
        self._deadline = float("inf")
        for pid in descendants(os.getpid()):
            send_signal(pid, signal.SIGKILL)

    def _report(self, left: int) -> dict[str, object]:
        code = os.waitstatus_to_exitcode(self._status or 0)
        return {
            "code": code if code >= 0 else None,
            "signal": -code if code < 0 else None,
            "fenced": self._fenced,
            "killed": self._killed,
            "left": left,
        }


def _ignore(*_: object) -> None:
    pass


def main(arguments: list[str]) -> None:
    """guard.py LEASE_SECONDS CHILD_STDIN_FD[,FD…] -- ARGV…"""
    lease_seconds, fds, _, *argv = arguments
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # Only the supervisor's word counts. A handler, not SIG_IGN: the child would inherit the latter.
        signal.signal(name, _ignore)
    signal.signal(signal.SIGCHLD, _ignore)
    become_subreaper()
    guard = Guard(argv, tuple(int(fd) for fd in fds.split(",")), float(lease_seconds))
    report = guard.watch()
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
