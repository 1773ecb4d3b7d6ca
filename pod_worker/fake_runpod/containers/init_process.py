"""The init process of a fake pod.

It runs the pod's command, adopts orphans, and kills all of them when it ends. A separate program, standard library
only, started by path so that it starts within milliseconds. Commands arrive on stdin: `stop SECONDS` sends SIGTERM
to the pod's command, and SIGKILL to all processes after that time. End of file means that the server died; all
processes are killed at once. Adopting orphans needs Linux; elsewhere only the session is killed.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time

if __name__ == "__main__":  # run by path with -I: the package is not on the search path yet
    sys.path.insert(0, os.path.abspath(os.path.join(os.path.dirname(__file__), *[os.pardir] * 3)))

from pod_worker.process.tree import ChildExitPipe, become_subreaper, descendants, kill_tree, reap, send_signal

NOT_FOUND = 127
KILL_SECONDS = 5.0


def main(command: list[str]) -> int:
    """Run `command`; returns its exit code, or 128 + the number of the signal."""
    become_subreaper()
    child_exit = ChildExitPipe()
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    except OSError as error:
        print(f"cannot start {command[0]!r}: {error.strerror}", file=sys.stderr, flush=True)
        return NOT_FOUND
    code = _watch(child.pid, child_exit)
    _kill_everything(child.pid)
    return code


def _watch(pid: int, child_exit: ChildExitPipe) -> int:
    deadline: float | None = None
    listening = [0, child_exit.reader]
    while (code := _exit_code(pid)) is None:
        timeout = None if deadline is None else max(0.01, deadline - time.monotonic())
        ready, _, _ = select.select(listening, [], [], timeout)
        child_exit.clear()
        if 0 in ready:
            message = os.read(0, 256)
            notice = _grace_seconds(message)
            until = time.monotonic() + notice
            deadline = until if deadline is None else min(deadline, until)
            if notice > 0:
                os.kill(pid, signal.SIGTERM)
            if not message:
                listening.remove(0)
        if deadline is not None and time.monotonic() >= deadline:
            _kill_all_once(pid)
    return code


def _grace_seconds(message: bytes) -> float:
    words = message.split()
    return float(words[1]) if len(words) == 2 and words[0] == b"stop" else 0.0


def _exit_code(pid: int) -> int | None:
    """Reap all ended children; the exit code of `pid` once it has ended."""
    status = reap().get(pid)
    if status is None:
        return None
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


def _kill_all_once(session: int) -> None:
    """SIGKILL without collecting: `_exit_code` still needs the command's status."""
    if sys.platform != "linux":
        _kill_session(session)
    for pid in descendants(os.getpid()):
        send_signal(pid, signal.SIGKILL)


def _kill_everything(session: int) -> None:
    if sys.platform == "linux":
        kill_tree(os.getpid(), KILL_SECONDS)
    else:
        _kill_session(session)


def _kill_session(session: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(session, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
