"""The guard: a process between supervisor and child that frees the GPU always.

It is the parent of the child and the subreaper of everything the child leaves behind, so a double fork or a new
session escapes nothing. It kills the whole tree when the trusted time of the lease runs out, when the supervisor
asks, or when the supervisor is gone (its pipe closes). It holds no GIL that the run could starve, uses no
network, and imports only the standard library so that it starts in milliseconds. It is run as a script. It starts
the sandbox server of a run that needs one: only the guard can give it a user of its own.

Commands come on stdin, one a line: `lease SECONDS` (trust for so long from now), `term` (SIGTERM to the child's
group), `kill`. The report goes to stdout as one JSON line: {"code", "signal", "lease_expired", "killed",
"survivors"}.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

if __name__ == "__main__":  # run by path with -I -S: the package is not on the search path yet
    sys.path.insert(0, os.path.abspath(os.path.join(os.path.dirname(__file__), *[os.pardir] * 3)))

from pod_worker.process.tree import (
    ChildExitPipe,
    become_subreaper,
    deny_inspection,
    descendants,
    die_with_parent,
    kill_tree,
    reap,
    send_signal,
)

if TYPE_CHECKING:
    from pod_worker.process.sandbox_server import SandboxStarter

LEASE_LIMIT_SECONDS = 3600.0  # the longest lease that the settings allow


def now() -> float:
    """Seconds that continue while the machine is suspended (Linux).

    A lease must not look fresh after a resume.
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME) if sys.platform == "linux" else time.monotonic()


Ids = tuple[int, int, tuple[int, ...]]  # user, group, further groups


def program(
    lease_seconds: float,
    fds: tuple[int, ...],
    user: Ids | None,
    *,
    needs_sandbox: bool = False,
    sandbox_user: Ids | None = None,
) -> list[str]:
    """The command line of a guard, to be followed by the child's.

    `user`, `sandbox_user` None: child and sandbox server keep ours.
    """
    # -I -S: nothing from the environment or site-packages, so that the guard starts in milliseconds.
    argv = [sys.executable, "-I", "-S", os.path.abspath(__file__)]
    sandbox = json.dumps({"user": sandbox_user} if needs_sandbox else None)
    return [*argv, f"{lease_seconds:.3f}", json.dumps(fds), json.dumps(user), sandbox, "--"]


class Guard:
    def __init__(
        self,
        argv: list[str],
        pass_fds: tuple[int, ...],
        lease_seconds: float,
        user: Ids | None,
        sandbox: SandboxStarter | None = None,
    ) -> None:
        uid, gid, groups = user or (None, None, None)
        self._sandbox = sandbox
        if sandbox:
            pass_fds = (*pass_fds, sandbox.child_fd)
        self._deadline = now() + lease_seconds
        self._received = b""
        self._killed = False
        self._lease_expired = False
        self._status: int | None = None
        self._child_exit = ChildExitPipe()  # before the child exists, so that its end cannot be missed
        self._child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=2,
            pass_fds=pass_fds,
            start_new_session=True,
            user=uid,
            group=gid,
            extra_groups=groups,
            preexec_fn=die_with_parent(os.getpid()),
        )
        for fd in pass_fds:
            os.close(fd)  # so that the supervisor sees the end of the child's pipes

    def watch(self) -> dict[str, object]:
        while self._status is None:
            wait = max(min(self._deadline - now(), 1.0), 0.0)
            commands = [] if self._killed else [0]  # a closed pipe is readable for ever
            requests = [self._sandbox] if self._sandbox and not self._killed else []
            readable, _, _ = select.select([*commands, *requests, self._child_exit.reader], [], [], wait)
            self._child_exit.clear()
            if self._sandbox in readable:
                self._start_sandbox()
            if 0 in readable:
                self._handle_commands(os.read(0, 4096))
            if now() >= self._deadline and not self._killed:
                self._lease_expired = True
                self._kill()
            self._status = reap().get(self._child.pid, self._status)
        survivors = kill_tree(os.getpid())
        return self._report(survivors)

    def _start_sandbox(self) -> None:
        if self._sandbox and not self._sandbox.answer(self._child.pid):
            self._sandbox = None  # the child closed its end

    def _handle_commands(self, received: bytes) -> None:
        if not received:  # the supervisor is gone
            self._kill()
        *lines, self._received = (self._received + received).split(b"\n")
        for line in lines:
            word, _, argument = line.partition(b" ")
            if word == b"lease":
                self._extend_lease(argument)
            elif word == b"term":
                self._terminate()
            elif word == b"kill":
                self._kill()

    def _extend_lease(self, argument: bytes) -> None:
        try:
            seconds = float(argument)
        except ValueError:
            return
        if 0 <= seconds <= LEASE_LIMIT_SECONDS and not self._killed:
            self._deadline = now() + seconds

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

    def _report(self, survivors: int) -> dict[str, object]:
        code = os.waitstatus_to_exitcode(self._status or 0)
        return {
            "code": code if code >= 0 else None,
            "signal": -code if code < 0 else None,
            "lease_expired": self._lease_expired,
            "killed": self._killed,
            "survivors": survivors,
        }


def _ignore(*_: object) -> None:
    pass


def _starter(sandbox: dict[str, Ids | None] | None) -> SandboxStarter | None:
    if sandbox is None:
        return None
    # Not at the top: the socket module would delay the start of every guard.
    from pod_worker.process.sandbox_server import SERVER_FD_VARIABLE, SandboxStarter

    starter = SandboxStarter(sandbox["user"])
    os.environ[SERVER_FD_VARIABLE] = str(starter.child_fd)
    return starter


def main(arguments: list[str]) -> None:
    """guard.py LEASE_SECONDS FDS USER SANDBOX -- ARGV…"""
    lease_seconds, fds, user, sandbox, _, *argv = arguments
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # Only the supervisor's commands count. A handler, not SIG_IGN: the child would inherit the latter.
        signal.signal(number, _ignore)
    deny_inspection()  # or the run could write commands into our standard input
    become_subreaper()
    guard = Guard(
        argv, tuple(json.loads(fds)), float(lease_seconds), json.loads(user), _starter(json.loads(sandbox))
    )
    report = guard.watch()
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
