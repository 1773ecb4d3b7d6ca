"""A child program behind its guard: start, command, read, wait for its tree.

All pipes end here. It decides nothing: what a command or an end means is the supervisor's part.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from typing import cast

import msgspec

from pod_worker.process import tree
from pod_worker.worker import protocol
from pod_worker.worker.isolation import guard
from pod_worker.worker.isolation.attempt_tag import AttemptTag, processes_with_tag
from pod_worker.worker.isolation.child_user import ChildUser, sandbox_user


class GuardReport(msgspec.Struct):
    """The guard's report when the tree is gone.

    `signal` is set when the child died of one.
    """

    code: int | None = None
    signal: int | None = None
    lease_expired: bool = False
    killed: bool = False
    survivors: int = 0


@dataclass(frozen=True, slots=True)
class ChildCommand:
    argv: list[str]
    env: Mapping[str, str]
    attempt_tag: AttemptTag  # every process of the tree carries it in its environment
    user: ChildUser | None = None
    needs_sandbox: bool = False  # it may ask the guard for a sandbox server


def child_command(
    attempt_tag: AttemptTag, env: Mapping[str, str], user: ChildUser | None, *, needs_sandbox: bool = False
) -> ChildCommand:
    argv = [sys.executable, "-m", "pod_worker.worker.child"]
    return ChildCommand(argv, env, attempt_tag, user, needs_sandbox)


class GuardedChild:
    def __init__(self, command: ChildCommand, lease_seconds: float, spec: protocol.AttemptSpec) -> None:
        self._spec = protocol.encode_line(spec)
        child_commands, commands = os.pipe()
        self._uplink_fd, child_uplink = os.pipe()
        self._commands = _CommandPipe(commands)
        self._attempt_tag = command.attempt_tag
        self._guard_lock = threading.Lock()
        self._foreign_children = frozenset(tree.children(os.getpid()))  # not of this attempt
        env = {
            **command.env,
            **command.attempt_tag.variables(),
            protocol.COMMAND_FD_VARIABLE: str(child_commands),
            protocol.UPLINK_FD_VARIABLE: str(child_uplink),
        }
        fds = (child_commands, child_uplink)
        try:
            self._guard = subprocess.Popen(
                [*_guard_program(command, lease_seconds, fds), *command.argv],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=env,
                pass_fds=fds,
                start_new_session=True,
            )
        except BaseException:
            self._commands.close()
            os.close(self._uplink_fd)
            raise
        finally:
            for fd in fds:
                os.close(fd)
        self.pid = self._guard.pid

    # ── commands ────────────────────────────────────────────────────────────────────────────────────────

    def send_spec(self) -> None:
        """Blocks until the child has read it, or is gone."""
        self._commands.send(self._spec)

    def set_lease_deadline(self, seconds: float) -> None:
        """The lease may be trusted for so long from now; then the guard kills the tree."""
        self._send_to_guard(f"lease {max(seconds, 0.0):.3f}\n")

    def ask_to_stop(self, reason: str, seconds: float) -> None:
        """Ask for an end within `seconds`.

        Never blocks: a child that reads nothing is ended by the signals that follow.
        """
        self._commands.try_send(protocol.encode_line(protocol.StopCommand(reason, seconds)))

    def terminate(self) -> None:
        self._send_to_guard("term\n")

    def kill(self) -> None:
        self._send_to_guard("kill\n")

    def kill_guard(self) -> None:
        """SIGKILL for a guard that does not answer (stopped, say).

        `wait` then sweeps what it leaves behind.
        """
        tree.send_signal(self.pid, signal.SIGKILL)

    def _send_to_guard(self, command: str) -> None:
        assert self._guard.stdin is not None
        with self._guard_lock:  # the renewer and the supervisor both write
            try:
                self._guard.stdin.write(command.encode())
                self._guard.stdin.flush()
            except (BrokenPipeError, ValueError):
                pass  # the guard is gone; its report is on the way

    # ── what comes back ─────────────────────────────────────────────────────────────────────────────────

    def messages(self, on_noise: Callable[[str], None]) -> Iterator[protocol.Message]:
        """Blocks until the child's end of the pipe is closed.

        A line that is no message goes to `on_noise`.

        Raises protocol.MessageError for a message that must not be used.
        """
        with os.fdopen(self._uplink_fd, "rb") as uplink:
            for received in _bounded_lines(uplink, protocol.MESSAGE_BYTES):
                try:
                    yield protocol.decode_message(received)
                except msgspec.MsgspecError as error:
                    on_noise(f"the child sent a line that is no message: {error}")

    @property
    def output(self) -> BufferedReader:
        """Standard output and error of the whole tree, mixed."""
        return cast(BufferedReader, self._guard.stderr)

    def wait(self) -> GuardReport:
        """Blocks until the whole tree is gone."""
        assert self._guard.stdout is not None
        received = self._guard.stdout.read()
        self._guard.wait()
        self._close()
        try:
            return msgspec.json.decode(received.strip() or b"-", type=GuardReport)
        except msgspec.MsgspecError:
            return GuardReport(signal=abs(self._guard.returncode or 9), survivors=self._sweep())

    def _sweep(self) -> int:
        """Kill what a killed guard left behind; returns how many processes survive.

        The child died with the guard. Its other processes still carry our tag, or became our children: the worker
        is the subreaper of all of them.
        """
        for pid in processes_with_tag(self._attempt_tag):
            tree.send_signal(pid, signal.SIGKILL)
        return tree.kill_tree(os.getpid(), spared=self._foreign_children)

    def _close(self) -> None:
        with self._guard_lock:
            for file in (self._guard.stdin, self._guard.stdout):
                if file is not None:
                    try:
                        file.close()
                    except BrokenPipeError:
                        pass
        self._commands.close()


def _guard_program(command: ChildCommand, lease_seconds: float, fds: tuple[int, ...]) -> list[str]:
    return guard.program(
        lease_seconds,
        fds,
        _ids(command.user),
        needs_sandbox=command.needs_sandbox,
        sandbox_user=_ids(sandbox_user(command.user)),
    )


def _ids(user: ChildUser | None) -> tuple[int, int, tuple[int, ...]] | None:
    return (user.uid, user.gid, user.groups) if user else None


class _CommandPipe:
    """Our end of the pipe that the child reads commands from."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._is_closed = False
        self._lock = threading.Lock()

    def send(self, data: bytes) -> None:
        """Blocks until the data is in the pipe, or the pipe is closed at either end."""
        with self._lock:
            while data and not self._is_closed:
                try:
                    data = data[os.write(self._fd, data) :]
                except BlockingIOError:
                    select.select([], [self._fd], [], 0.2)
                except OSError:
                    return  # the child is gone

    def try_send(self, line: bytes) -> None:
        """A short line, unless the pipe is full or in use."""
        if self._lock.acquire(blocking=False):
            try:
                os.write(self._fd, line)
            except OSError:
                pass
            finally:
                self._lock.release()

    def close(self) -> None:
        self._is_closed = True
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
            self._fd = -1


def _bounded_lines(file: BufferedReader, limit: int) -> Iterator[bytes]:
    """The lines of a pipe; of one longer than `limit` only the beginning.

    The rest is read and discarded.
    """
    while line := file.readline(limit):
        yield line
        while not line.endswith(b"\n") and line:
            line = file.readline(limit)
