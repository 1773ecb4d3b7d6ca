"""One child process: in its own group, logged to a file, stopped for good.

The kernel kills the child when its parent dies (Linux), so nothing outlives us even after a SIGKILL. It does not
restart anything: the owner of the child decides what its end means.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from pod_worker.local.errors import ChildDiedError, LocalStackError, NotReadyError, StopRequestedError
from pod_worker.local.spawning import spawn_from_long_lived_thread
from pod_worker.process.tree import die_with_parent

LOOPBACK = "127.0.0.1"
POLL_SECONDS = 0.02
TAIL_LINES = 15
TAIL_BYTES = 256 * 1024
PORT_ATTEMPTS = 5
PORT_TAKEN = "ddress already in use"  # as mongod and rclone both log it


class ChildProcess:
    """A named child process and its log file.

    Not thread-safe, except for `pid` and `exit_code`.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        log_path: Path,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        keep_fds: Sequence[int] = (),
        is_notable: Callable[[str], bool] = bool,
    ) -> None:
        """A child to start.

        `env` is the whole environment of the child (None: ours). `keep_fds` stay open in the child.

        Errors quote the last log lines that are `is_notable`, or simply the last ones where none is.
        """
        self.name = name
        self.argv = tuple(argv)
        self.log_path = log_path
        self._env = None if env is None else dict(env)
        self._cwd = cwd
        self._keep_fds = tuple(keep_fds)
        self._is_notable = is_notable
        self._popen: subprocess.Popen[bytes] | None = None
        self._group_cleared = False

    @property
    def pid(self) -> int:
        if self._popen is None:
            raise ChildDiedError(f"{self.name} was never started.")
        return self._popen.pid

    def start(self) -> None:
        """Start the child.

        The log of the run before is kept beside the new one as `<log>.1`.

        Raises ChildDiedError when there is no such program or it is not made for this machine.
        """
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self.log_path.replace(self.log_path.with_name(self.log_path.name + ".1"))
        self._group_cleared = False
        try:
            self._popen = spawn_from_long_lived_thread(self._spawn)
        except OSError as error:
            raise ChildDiedError(f"{self.name} could not be started: {error}.") from error

    def exit_code(self) -> int | None:
        """None while the child runs; negative for death by signal.

        The rest of its group goes with it.
        """
        if self._popen is None:
            return None
        code = self._popen.poll()
        if code is not None:
            self._clear_group()
        return code

    def is_running(self) -> bool:
        return self._popen is not None and self.exit_code() is None

    def wait_until(
        self, ready: Callable[[], bool], timeout_seconds: float, stop: threading.Event | None = None
    ) -> None:
        """Return as soon as `ready()` is true.

        Raises ChildDiedError when the child ends first, NotReadyError after `timeout_seconds`, both with the end
        of its log, and StopRequestedError when `stop` is set meanwhile.
        """
        deadline = time.monotonic() + timeout_seconds
        while not ready():
            self.require_running()
            if time.monotonic() > deadline:
                raise NotReadyError(f"{self.name} was not ready after {timeout_seconds:g} s.\n{self.log_tail()}")
            if stop is not None and stop.is_set():
                raise StopRequestedError(f"Stopped while {self.name} was starting.")
            time.sleep(POLL_SECONDS)
        self.require_running()

    def require_running(self) -> None:
        code = self.exit_code()
        if code is not None:
            raise ChildDiedError(f"{self.name} ended with {describe_exit(code)}.\n{self.log_tail()}")

    def signal(self, number: int) -> None:
        """Send a signal to the child itself; nothing happens when it is gone."""
        if self.is_running():
            os.kill(self.pid, number)

    def stop(self, grace_seconds: float = 10.0) -> int | None:
        """TERM, then KILL to the group after `grace_seconds`; returns the exit code.

        Safe to call twice.
        """
        self.signal(signal.SIGTERM)
        return self.wait_or_kill(grace_seconds)

    def wait_or_kill(self, grace_seconds: float) -> int | None:
        """Wait for a child that was already asked to stop, then KILL.

        Asking twice would mean force to some.
        """
        if self._popen is None:
            return None
        try:
            self._popen.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            return self.kill()
        return self.exit_code()

    def kill(self) -> int | None:
        """SIGKILL to the whole group, now."""
        if self._popen is None:
            return None
        if self._popen.poll() is None:
            _kill_group(self._popen.pid)
            self._popen.wait()
        return self.exit_code()

    def log_tail(self) -> str:
        """The last lines worth showing, under a heading that names the log file."""
        lines = self.log_lines()
        notable = [line for line in lines if self._is_notable(line)] or lines
        tail = "\n".join(f"  {line[:500]}" for line in notable[-TAIL_LINES:])
        return f"Last lines of {self.log_path}:\n{tail or '  (empty)'}"

    def log_lines(self) -> list[str]:
        """The end of the log, at most TAIL_BYTES of it."""
        try:
            with self.log_path.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL_BYTES))
                return log.read().decode("utf-8", "replace").splitlines()
        except FileNotFoundError:
            return []

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self.log_path.open("wb") as log:
            return subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._env,
                cwd=self._cwd,
                pass_fds=self._keep_fds,
                start_new_session=True,
                preexec_fn=die_with_parent(os.getpid()),
            )

    def _clear_group(self) -> None:
        """Once, right after the leader's end: later another process could have its number."""
        if not self._group_cleared and self._popen is not None:
            self._group_cleared = True
            _kill_group(self._popen.pid)


def describe_exit(code: int) -> str:
    """`exit code 2` or `signal SIGKILL`."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


_reserved_ports = contextlib.ExitStack()  # closed at exit, or Python warns about each socket
atexit.register(_reserved_ports.close)


def free_port() -> int:
    """A free loopback port, which no other program gets while this process lives.

    A socket that is bound and never listens holds it. A server with SO_REUSEADDR (asyncio, mongod, Go) can listen
    there, end and listen again; in between, a neighbour could take the port and be mistaken for that server. Only
    Linux shares a port so; elsewhere another process may take it first, and callers must be able to try another.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind((LOOPBACK, 0))
    port = int(holder.getsockname()[1])
    if sys.platform == "linux":
        _reserved_ports.enter_context(holder)
    else:
        holder.close()
    return port


def require_free(port: int) -> None:
    """Raises LocalStackError, with the fix, when this loopback port is in use."""
    if (error := _bind_error(port)) is not None:
        raise LocalStackError(
            f"Port {port} cannot be used: {error.strerror}. Fix: choose another port, or stop the program that "
            "listens there."
        )


def _bind_error(port: int) -> OSError | None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed connections do not count
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            return error
    return None


def start_listening(
    make: Callable[[int], ChildProcess],
    ready: Callable[[ChildProcess, int], bool],
    port: int,
    timeout_seconds: float,
    stop: threading.Event | None = None,
    *,
    may_move: bool = False,
) -> tuple[ChildProcess, int]:
    """Start the server that `make(port)` describes and wait for `ready(child, port)`.

    `port` 0 means a random free one, chosen again when another program takes it first; so is any port that
    `may_move`. `ready` must tell our server from another one on that port. On any error the child is gone.
    Returns the child and its port.
    """
    attempts = PORT_ATTEMPTS if may_move or not port else 1
    if may_move and _bind_error(port):
        port = 0
    while True:
        attempts -= 1
        chosen = port or free_port()
        child = make(chosen)
        child.start()
        try:
            child.wait_until(partial(ready, child, chosen), timeout_seconds, stop)
        except ChildDiedError:
            if not attempts or not any(PORT_TAKEN in line for line in child.log_lines()):
                raise
            port = 0
        except BaseException:
            child.kill()
            raise
        else:
            return child, chosen


def _kill_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
