"""A child program behind its guard: start it, give it orders, hear what it says and how it ended.

All pipes end here. It decides nothing: what an order or an end means is the supervisor's business.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import cast

import msgspec

from pod_worker.process import tree
from pod_worker.worker import guard, protocol

MARK_VARIABLE = "POD_WORKER_ATTEMPT"


class GuardReport(msgspec.Struct):
    """The guard's last word. `signal` is set when the child died of one."""

    code: int | None = None
    signal: int | None = None
    lease_expired: bool = False
    killed: bool = False
    survivors: int = 0


@dataclass(frozen=True, slots=True)
class ChildCommand:
    argv: list[str]
    env: Mapping[str, str]
    attempt_tag: str  # unique per attempt; every process of the tree carries it in its environment


def child_command(mark: str, env: Mapping[str, str]) -> ChildCommand:
    return ChildCommand([sys.executable, "-m", "pod_worker.worker.child"], env, mark)


class GuardedChild:
    def __init__(self, command: ChildCommand, lease_seconds: float, spec: protocol.AttemptSpec) -> None:
        child_stdin, self._orders_fd = os.pipe()
        self._uplink_fd, child_uplink = os.pipe()
        self._mark = command.attempt_tag
        env = {**command.env, MARK_VARIABLE: command.attempt_tag, protocol.UPLINK_FD_VARIABLE: str(child_uplink)}
        script = str(Path(guard.__file__).resolve())
        try:
            self._guard = subprocess.Popen(
                # -I -S: nothing from the environment or site-packages; the guard must start in milliseconds.
                [
                    sys.executable,
                    "-I",
                    "-S",
                    script,
                    f"{lease_seconds:.3f}",
                    f"{child_stdin},{child_uplink}",
                    "--",
                    *command.argv,
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=env,
                pass_fds=(child_stdin, child_uplink),
                start_new_session=True,
            )
        finally:
            os.close(child_stdin)
            os.close(child_uplink)
        self.pid = self._guard.pid
        self._tell_child(spec)

    # ── orders ──────────────────────────────────────────────────────────────────────────────────────────

    def set_lease_deadline(self, seconds: float) -> None:
        """The lease may be trusted for so long from now; then the guard kills the tree by itself."""
        self._tell_guard(f"lease {max(seconds, 0.0):.3f}\n")

    def ask_to_stop(self, reason: str) -> None:
        self._tell_child(protocol.StopCommand(reason))

    def terminate(self) -> None:
        self._tell_guard("term\n")

    def kill(self) -> None:
        self._tell_guard("kill\n")

    def _tell_guard(self, order: str) -> None:
        assert self._guard.stdin is not None
        try:
            self._guard.stdin.write(order.encode())
            self._guard.stdin.flush()
        except (BrokenPipeError, ValueError):
            pass  # it is gone, and its last word is on the way

    def _tell_child(self, message: msgspec.Struct) -> None:
        try:
            data = protocol.encode_line(message)
            while data:
                data = data[os.write(self._orders_fd, data) :]
        except (BrokenPipeError, OSError):
            pass

    # ── hearing ─────────────────────────────────────────────────────────────────────────────────────────

    def messages(self, on_noise: Callable[[str], None]) -> Iterator[protocol.Message]:
        """Blocks until the child's end of the pipe is closed. A line that is no message goes to `on_noise`."""
        with os.fdopen(self._uplink_fd, "rb") as uplink:
            for received in uplink:
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
        said = self._guard.stdout.read()
        self._guard.wait()
        self._close()
        try:
            return msgspec.json.decode(said.strip() or b"-", type=GuardReport)
        except msgspec.MsgspecError:
            # The guard itself was killed. The child went with it; what it left behind still bears our mark.
            self._sweep_marked()
            return GuardReport(signal=abs(self._guard.returncode or 9))

    def _sweep_marked(self) -> None:
        for pid in processes_with_tag(self._mark):
            tree.send_signal(pid, 9)

    def _close(self) -> None:
        for file in (self._guard.stdin, self._guard.stdout):
            if file is not None:
                try:
                    file.close()
                except BrokenPipeError:
                    pass
        os.close(self._orders_fd)


def processes_with_tag(mark: str) -> list[int]:
    """Processes that carry the mark in their environment (Linux)."""
    wanted = f"{MARK_VARIABLE}={mark}".encode()
    return [pid for pid in _pids() if wanted in _words(pid, "environ")]


def unguarded_processes() -> list[int]:
    """Processes of any run on this machine that no guard watches: left behind by a pod whose worker and guard were
    killed in the same moment. Every run's process has its guard above it, whatever it forked into."""
    any_mark = f"{MARK_VARIABLE}=".encode()
    found = [pid for pid in _pids() if any(word.startswith(any_mark) for word in _words(pid, "environ"))]
    guards = {pid for pid in _pids() if any(word.endswith(b"worker/guard.py") for word in _words(pid, "cmdline"))}
    watched = guards | {pid for each in guards for pid in tree.descendants(each)}
    return [pid for pid in found if pid not in watched]


def sweep_unguarded() -> list[int]:
    """SIGKILL them, so that the GPU is free before anything is claimed; returns who they were."""
    found = unguarded_processes() if sys.platform == "linux" else []
    for pid in found:
        tree.send_signal(pid, 9)
    return found


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _words(pid: int, name: str) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes().split(b"\0")
    except OSError:
        return []
