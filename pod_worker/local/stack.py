"""The local stack as one object: MongoDB, S3, then any named child processes.

They are stopped in reverse order.

Uses a MongoDB or S3 server it is given, else starts its own. It knows nothing of what the children do; the command
line decides which to start, and when the death of one ends the stack.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import FrameType

from pod_worker.local.description import STACK_FILE, StackDescription
from pod_worker.local.errors import LocalStackError
from pod_worker.local.folder_lock import FolderLock, write_private
from pod_worker.local.mongod import DEFAULT_DATABASE, Mongod, require_mongodb
from pod_worker.local.process import ChildProcess, start_listening
from pod_worker.local.s3 import ObjectStoreServer, S3Access, require_bucket

WATCH_SECONDS = 0.1
READY_SECONDS = 60.0
GRACE_SECONDS = 30.0
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True)
class Exited:
    """A child of the stack that is no longer running."""

    name: str
    code: int
    log_tail: str


@dataclass(frozen=True)
class _Child:
    process: ChildProcess
    role: str
    grace_seconds: float


class Stack:
    """A local stack in `data_dir`; a context manager. One owner per folder.

    `mongodb_url` and `s3` name servers that exist already; ports of 0 are random free ones. `stop` ends `watch`
    and a start that is under way. Use from one thread.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        mongodb_url: str | None = None,
        s3: S3Access | None = None,
        mongodb_port: int = 0,
        s3_port: int = 0,
        database: str = DEFAULT_DATABASE,
        stop: threading.Event | None = None,
    ) -> None:
        self.data_dir = data_dir
        self.stop_event = stop or threading.Event()
        self._lock = FolderLock(data_dir)
        self._database = database
        self._mongodb = mongodb_url or Mongod(data_dir / "mongodb", mongodb_port)
        self._s3 = s3 or ObjectStoreServer(data_dir / "s3", s3_port)
        self._children: dict[str, _Child] = {}
        self._control_plane_url: str | None = None
        self._token: str | None = None

    @property
    def mongodb_url(self) -> str:
        given = self._mongodb
        return given if isinstance(given, str) else given.url_for(self._database)

    @property
    def s3(self) -> S3Access:
        return self._s3 if isinstance(self._s3, S3Access) else self._s3.access

    def start(self) -> None:
        """Start what was not given, or check what was.

        Raises a LocalStackError and leaves nothing running.
        """
        self._lock.acquire()
        try:
            self._start_mongodb()
            self._start_s3()
            self._write_description()
        except BaseException:
            self.kill()
            raise

    def start_process(
        self,
        name: str,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        *,
        ready: Callable[[], bool] | None = None,
        ready_seconds: float = READY_SECONDS,
        grace_seconds: float = GRACE_SECONDS,
        role: str | None = None,
        cwd: Path | None = None,
    ) -> ChildProcess:
        """Start a child, log to `logs/NAME.log`, and wait until `ready()`.

        `env` is its whole environment (None: ours): secrets go there, never in `argv`. Neighbours of the same
        `role` are stopped together, each with its own grace. Raises ChildDiedError, NotReadyError,
        StopRequestedError; the child is gone then.
        """
        process = self._describe_child(name, argv, env, cwd)
        process.start()
        try:
            process.wait_until(ready or process.is_running, ready_seconds, self.stop_event)
        except BaseException:
            process.kill()
            raise
        self._children[name] = _Child(process, role or name, grace_seconds)
        self._write_description()
        return process

    def start_server(
        self,
        name: str,
        argv: Callable[[int], Sequence[str]],
        env: Mapping[str, str],
        *,
        ready: Callable[[int], bool],
        port: int = 0,
        may_move: bool = False,
        ready_seconds: float = READY_SECONDS,
    ) -> int:
        """Start a child that listens on the port given to `argv`, and return its port.

        Another port is taken when this one is busy and `port` is 0 or `may_move`. `ready(port)` must prove that
        this child answers, not another server on that port.
        """
        process, taken = start_listening(
            lambda chosen: self._describe_child(name, argv(chosen), env),
            lambda _, chosen: ready(chosen),
            port,
            ready_seconds,
            self.stop_event,
            may_move=may_move,
        )
        self._children[name] = _Child(process, name, GRACE_SECONDS)
        self._write_description()
        return taken

    def remove(self, name: str) -> int | None:
        """Stop one child and forget it; returns its exit code.

        `watch` no longer reports it.
        """
        child = self._children.pop(name)
        code = child.process.stop(child.grace_seconds)
        self._write_description()
        return code

    def publish(self, *, control_plane_url: str | None = None, token: str | None = None) -> StackDescription:
        """Add what only the caller knows to `stack.json`."""
        self._control_plane_url = control_plane_url or self._control_plane_url
        self._token = token or self._token
        return self._write_description()

    def watch(self, timeout_seconds: float | None = None) -> Exited | None:
        """Block until a child has ended (returned), or None.

        None when `stop_event` is set or the time is over.
        """
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while not self.stop_event.is_set():
            if (exited := self._first_exited()) is not None:
                return exited
            if deadline is not None and time.monotonic() >= deadline:
                return None
            # Not stop_event.wait(): a signal handler that sets the event while this thread is inside wait()
            # could find the event's lock taken by its own thread, and hang.
            time.sleep(WATCH_SECONDS)
        return None

    def describe(self) -> StackDescription:
        keys_file = None if isinstance(self._s3, S3Access) else str(self._s3.keys_file)
        return StackDescription(
            mongodb_url=self.mongodb_url,
            control_plane_url=self._control_plane_url,
            s3_url=self.s3.url,
            s3_bucket=self.s3.bucket,
            s3_keys_file=keys_file,
            token=self._token,
            pids={"stack": os.getpid()} | {name: process.pid for name, process in self._processes()},
        )

    def stop(self) -> None:
        """Stop everything in reverse order of start.

        Interrupted (a second Ctrl-C), it kills the rest at once.
        """
        try:
            children = reversed(self._children.values())
            for _, group in groupby(children, key=lambda child: child.role):
                _stop_together(list(group))
            for server in self._servers():
                server.stop()
        finally:
            self.kill()

    def kill(self) -> None:
        """SIGKILL everything; safe for the data, rude to the children."""
        for child in self._children.values():
            child.process.kill()
        for server in self._servers():
            server.kill()
        if self._lock.is_held():
            (self.data_dir / STACK_FILE).unlink(missing_ok=True)
        self._lock.release()

    def __enter__(self) -> Stack:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _describe_child(
        self, name: str, argv: Sequence[str], env: Mapping[str, str] | None, cwd: Path | None = None
    ) -> ChildProcess:
        if name in self._children:
            raise LocalStackError(f"The stack already has a child called {name}. Fix: remove it first.")
        return ChildProcess(name, argv, self.data_dir / "logs" / f"{name}.log", env=env, cwd=cwd)

    def _start_mongodb(self) -> None:
        if isinstance(self._mongodb, str):
            require_mongodb(self._mongodb)
        else:
            self._mongodb.start(stop=self.stop_event)

    def _start_s3(self) -> None:
        if isinstance(self._s3, S3Access):
            require_bucket(self._s3)
        else:
            self._s3.start(stop=self.stop_event)

    def _servers(self) -> list[ObjectStoreServer | Mongod]:
        """Ours, in the order of stopping."""
        return [server for server in (self._s3, self._mongodb) if isinstance(server, ObjectStoreServer | Mongod)]

    def _processes(self) -> Iterator[tuple[str, ChildProcess]]:
        if isinstance(self._mongodb, Mongod):
            yield "mongod", self._mongodb.members[0].process
        if isinstance(self._s3, ObjectStoreServer):
            yield "s3", self._s3.process
        for name, child in self._children.items():
            yield name, child.process

    def _first_exited(self) -> Exited | None:
        for name, process in self._processes():
            if (code := process.exit_code()) is not None:
                return Exited(name, code, process.log_tail())
        return None

    def _write_description(self) -> StackDescription:
        description = self.describe()
        write_private(self.data_dir / STACK_FILE, description.to_json())
        return description


@contextmanager
def stop_on_signals(stop: threading.Event) -> Iterator[None]:
    """The first SIGTERM, SIGINT or SIGHUP sets `stop`; a second one acts as usual.

    Takes only signals with their default action: those that were ignored (nohup) stay ignored. Main thread only.
    """
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    default = (signal.SIG_DFL, signal.default_int_handler)
    taken = {number: handler for number, handler in before.items() if handler in default}

    def restore() -> None:
        for number, handler in taken.items():
            signal.signal(number, handler)

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()
        restore()

    for number in taken:
        signal.signal(number, on_signal)
    try:
        yield
    finally:
        restore()


def _stop_together(children: list[_Child]) -> None:
    for child in children:
        child.process.signal(signal.SIGTERM)
    asked_at = time.monotonic()
    for child in children:
        child.process.wait_or_kill(max(0.0, asked_at + child.grace_seconds - time.monotonic()))
