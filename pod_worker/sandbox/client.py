"""The client of a sandbox server: `core.execution.CodeRunner` for several threads.

It proves the layers when a server starts, prepares folders for the server's user, and waits for executions. A
server that died is replaced at the next execution; the one that ran ends with RunError(ENVIRONMENT).
"""

from __future__ import annotations

import os
import select
import shutil
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path

import msgspec

from pod_worker.core.execution import ExecutionRequest, ExecutionResult
from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.stage import StopSignal
from pod_worker.sandbox import identity, protocol
from pod_worker.sandbox.layers import missing_layers, prove
from pod_worker.sandbox.named_hosts import HOSTS_LIMIT, host_problem
from pod_worker.sandbox.protocol import (
    DescribeCommand,
    ExecuteCommand,
    ExecutionFinished,
    ExecutionRefused,
    KeeperStarted,
    RemoveCommand,
    ServerDescription,
    SweepCommand,
)
from pod_worker.sandbox.starting import LocalStarter, ServerStarter

START_SECONDS = 180.0  # the imports of torch and sklearn on a busy machine
SWEEP_SECONDS = 30.0
REMOVE_SECONDS = 600.0
LATE_SECONDS = 60.0  # beyond the wall limit, for a keeper that does not report
STOP_POLL_SECONDS = 0.1


class ServerGoneError(Exception):
    """The server or a keeper ended; the fate of the command is not known."""


class SandboxClient:
    """Raises RunError(ENVIRONMENT) when a layer of the floor cannot be proved."""

    def __init__(self, starter: ServerStarter, floor: Sequence[str] | None = None) -> None:
        self._starter = starter
        self._floor = floor
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._server: ServerDescription | None = None
        self._layers: tuple[str, ...] = ()
        self._readable: set[Path] = set()  # prepared before
        try:
            self._connect()
        except BaseException:
            self.close()
            raise

    @property
    def layers(self) -> tuple[str, ...]:
        return self._layers

    @property
    def server(self) -> ServerDescription:
        """The server as it was when it started."""
        assert self._server is not None
        return self._server

    def execute(self, request: ExecutionRequest, stop: StopSignal) -> ExecutionResult:
        check_request(request)
        server = self._ensure_server()
        self._prepare(request, server)
        return self._execute(request, stop)

    def run_program(
        self, request: ExecutionRequest, output: int, terminate: StopSignal, kill: StopSignal
    ) -> ExecutionResult:
        check_request(request)
        server = self._ensure_server()
        self._prepare(request, server)
        return self._execute(request, kill, terminate, output)

    def remove(self, folder: Path) -> None:
        if not folder.exists():
            return
        if self.server.uid != os.geteuid():
            with suppress(ServerGoneError):
                self._ensure_server()
                self._ask(RemoveCommand(folder), REMOVE_SECONDS)
        identity.open_closed_folders(folder)
        shutil.rmtree(folder)

    def close(self) -> None:
        """The server ends, and what it runs."""
        with self._lock:
            self._close_locked()
            self._starter.close()

    def __enter__(self) -> SandboxClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ── the server ──────────────────────────────────────────────────────────────────────────────────────

    def _ensure_server(self) -> ServerDescription:
        with self._lock:
            alive = self._control is not None and not _has_ended(self._control)
        if not alive:
            self._connect()
        return self.server

    def _connect(self) -> None:
        with self._lock:
            if self._control is not None and not _has_ended(self._control):
                return  # another thread was faster
            self._close_locked()
            self._control = self._starter.start()
            try:
                self._prove_locked()
            except BaseException:
                self._close_locked()
                raise

    def _prove_locked(self) -> None:
        try:
            server = self._ask_locked(DescribeCommand(), START_SECONDS)
        except ServerGoneError:
            raise RunError(
                FailureCode.ENVIRONMENT, "the sandbox server ended while it started; its output names the cause"
            ) from None
        assert isinstance(server, ServerDescription)
        self._server = server
        self._readable.clear()
        self._layers = prove(self._execute_probe, server)
        if missing := missing_layers(self._floor, self._layers):
            raise RunError(FailureCode.ENVIRONMENT, _floor_message(missing, server))

    def _close_locked(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None

    def _execute_probe(self, request: ExecutionRequest) -> ExecutionResult:
        self._prepare(request, self.server)
        return self._execute(request, _NeverStop(), is_locked=True)

    def _ask(self, command: msgspec.Struct, seconds: float) -> protocol.Answer:
        with self._lock:
            return self._ask_locked(command, seconds)

    def _ask_locked(self, command: msgspec.Struct, seconds: float) -> protocol.Answer:
        with self._send(command) as answers:
            return answers.next(seconds)

    def _send(self, command: msgspec.Struct, output: int | None = None) -> _Answers:
        """Raises ServerGoneError."""
        if self._control is None:
            raise ServerGoneError
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                protocol.send_command(self._control, command, theirs, output)
        except OSError as error:
            ours.close()
            raise ServerGoneError from error
        return _Answers(ours)

    # ── one execution ───────────────────────────────────────────────────────────────────────────────────

    def _execute(
        self,
        request: ExecutionRequest,
        stop: StopSignal,
        terminate: StopSignal | None = None,
        output: int | None = None,
        *,
        is_locked: bool = False,
    ) -> ExecutionResult:
        keeper = 0
        try:
            with nullcontext() if is_locked else self._lock:
                answers = self._send(ExecuteCommand(request), output)
            with answers:
                answer = answers.next(START_SECONDS, stop, terminate)
                if isinstance(answer, KeeperStarted):
                    keeper = answer.keeper
                    answer = answers.next(request.limits.wall_seconds + LATE_SECONDS, stop, terminate)
        except ServerGoneError:
            if not is_locked:
                self._sweep(keeper)
            raise RunError(
                FailureCode.ENVIRONMENT, "the process of the sandbox that watches the program is gone; try again"
            ) from None
        if isinstance(answer, ExecutionRefused):
            raise RunError(FailureCode(answer.code), answer.message)
        assert isinstance(answer, ExecutionFinished)
        return answer.result

    def _sweep(self, keeper: int) -> None:
        """Kill what a keeper that is gone left behind.

        Where the server is gone as well, the starter of the next one does.
        """
        with suppress(ServerGoneError):
            self._ask(SweepCommand(keeper), SWEEP_SECONDS)

    def _prepare(self, request: ExecutionRequest, server: ServerDescription) -> None:
        """Folder and files are within reach of the server's user. Raises RunError."""
        if server.uid == os.geteuid():
            return
        for path in (request.folder, *request.writable):
            identity.share_folder(path, server.gid, writable=True)
        fresh = [path for path in (*request.readable, *request.programs) if path not in self._readable]
        for path in fresh:
            identity.share_folder(path, server.gid, writable=False)
        for path in (request.folder / "file", *request.writable, *fresh):
            if closed := identity.open_way(path, server.uid, (server.gid,)):
                raise RunError(
                    FailureCode.ENVIRONMENT,
                    f"the user of sandboxed programs ({server.uid}) cannot enter {closed}, which leads to {path}. "
                    f"Move the work folder to a place that others may enter, or run `chmod o+x {closed}`.",
                )
        self._readable.update(fresh)


def start_local(modules: Sequence[str] = (), floor: Sequence[str] | None = None) -> SandboxClient:
    """A client with a server of its own: for commands, benchmarks and tests."""
    return SandboxClient(LocalStarter(modules), floor)


def check_request(request: ExecutionRequest) -> None:
    """Raises RunError(INVALID_INPUT)."""
    problem = _problem(request)
    if problem:
        raise RunError(FailureCode.INVALID_INPUT, problem)


def _problem(request: ExecutionRequest) -> str | None:
    if request.hosts and (problem := _host_problem(request)):
        return problem
    if not request.argv:
        return "the request names no program"
    if not request.folder.is_dir() or not request.folder.is_absolute():
        return f"{request.folder} is not an absolute path of a folder"
    program = Path(request.argv[0])
    if not program.is_absolute() and (program.suffix != ".py" or ".." in program.parts):
        return f"{program} is neither a Python file of the folder nor an absolute path"
    if not program.is_absolute() and not (request.folder / program).is_file():
        return f"{request.folder / program} is not a file"
    missing = [
        str(path) for path in (*request.readable, *request.writable, *request.programs) if not path.exists()
    ]
    if missing:
        return f"{', '.join(missing)} should be within reach and does not exist"
    if any("\0" in text for text in (*request.argv, *request.environment, *request.environment.values())):
        return "an argument or a variable contains NUL"
    size = len(protocol.encode(ExecuteCommand(request)))
    if size > protocol.COMMAND_BYTES:
        return f"the request has {size} bytes; at most {protocol.COMMAND_BYTES} are sent. Pass data in files."
    return None


def _host_problem(request: ExecutionRequest) -> str | None:
    if request.unix_sockets or request.loopback:
        return "named hosts exclude sockets of the program's own: a connection could be used to listen"
    if not request.argv or not request.argv[0].endswith(".py") or os.path.isabs(request.argv[0]):
        return "only Python files of the folder can reach named hosts"
    if len(request.hosts) > HOSTS_LIMIT:
        return f"the request names {len(request.hosts)} hosts; at most {HOSTS_LIMIT} may be named"
    return next(filter(None, map(host_problem, request.hosts)), None)


def _floor_message(missing: Sequence[str], server: ServerDescription) -> str:
    found = f"Landlock version {server.landlock_abi}, user {server.uid}"
    return (
        f"this machine cannot run untrusted programs: the protection {', '.join(missing)} could not be proved "
        f"({found}). Use a kernel with Landlock and seccomp, and a Python that other users may enter; or lower "
        "POD_WORKER_SANDBOX_FLOOR (docs/sandbox.md)."
    )


def _has_ended(control: socket.socket) -> bool:
    """The server never sends here: readable means closed."""
    try:
        return bool(select.select([control], [], [], 0)[0])
    except (OSError, ValueError):
        return True


class _Answers:
    """The lines that come back for one command."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = b""

    def __enter__(self) -> _Answers:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def next(
        self, seconds: float, stop: StopSignal | None = None, terminate: StopSignal | None = None
    ) -> protocol.Answer:
        """The next answer; a request to stop or to terminate is passed on once.

        Raises ServerGoneError for an end or a silence.
        """
        deadline = time.monotonic() + seconds
        while b"\n" not in self._received:
            if self._is_readable(deadline):
                self._receive()
            elif terminate is not None and terminate.is_set():
                terminate = None
                self._pass_on(protocol.TERMINATE)
            elif stop is not None and stop.is_set():
                stop = None
                deadline = min(deadline, time.monotonic() + LATE_SECONDS)
                self._pass_on(protocol.STOP)
            if time.monotonic() > deadline:
                raise ServerGoneError
        line, _, self._received = self._received.partition(b"\n")
        return protocol.decode_answer(line)

    def _pass_on(self, message: bytes) -> None:
        with suppress(OSError):
            self._connection.sendall(message)

    def _is_readable(self, deadline: float) -> bool:
        wait = min(max(deadline - time.monotonic(), 0.0), STOP_POLL_SECONDS)
        return bool(select.select([self._connection], [], [], wait)[0])

    def _receive(self) -> None:
        try:
            data = self._connection.recv(65_536)
        except OSError as error:
            raise ServerGoneError from error
        if not data:
            raise ServerGoneError
        self._received += data


class _NeverStop:
    def check(self) -> None:
        pass

    def is_set(self) -> bool:
        return False
