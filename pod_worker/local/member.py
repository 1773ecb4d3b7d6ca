"""One member of a replica set: a `mongod` process, its folder, log and port.

Can be stopped, killed and frozen on its own, as failover tests need. Knows nothing of the set it belongs to.
"""

from __future__ import annotations

import re
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pymongo
from pymongo.errors import PyMongoError

from pod_worker.local.errors import ChildDiedError
from pod_worker.local.process import LOOPBACK, ChildProcess, start_listening

START_SECONDS = 60.0
STOP_SECONDS = 20.0

Client = pymongo.MongoClient[dict[str, Any]]


@contextmanager
def direct_client(port: int, timeout_seconds: float) -> Iterator[Client]:
    """A connection to the mongod on `port` itself.

    It gives up after `timeout_seconds`.
    """
    milliseconds = int(timeout_seconds * 1000)
    client: Client = pymongo.MongoClient(
        LOOPBACK,
        port,
        directConnection=True,
        tz_aware=True,
        serverSelectionTimeoutMS=milliseconds,
        socketTimeoutMS=milliseconds * 5,
    )
    try:
        yield client
    finally:
        client.close()


class MongodMember:
    """One `mongod` process of the set, with its folder, its log and the port it got."""

    def __init__(self, folder: Path, argv: tuple[str, ...], port: int, lock_fd: int) -> None:
        self.folder = folder
        self.port = port
        self._argv = argv
        self._lock_fd = lock_fd
        self._process: ChildProcess | None = None

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    @property
    def process(self) -> ChildProcess:
        if self._process is None:
            raise ChildDiedError(f"The mongod in {self.folder} was never started.")
        return self._process

    def start(self, timeout_seconds: float = START_SECONDS, stop: threading.Event | None = None) -> None:
        """Start and wait until it answers.

        A random port is kept for the life of this object.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._process, self.port = start_listening(self._describe, self._answers, self.port, timeout_seconds, stop)
        # Each index is a file. The soft limit of a login shell, 1024 on many machines, is soon reached.
        _, hard = resource.prlimit(self._process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(self._process.pid, resource.RLIMIT_NOFILE, (hard, hard))

    def stop(self, grace_seconds: float = STOP_SECONDS) -> None:
        self.resume()
        if self._process is not None:
            self._process.stop(grace_seconds)

    def kill(self) -> None:
        """SIGKILL, as a power cut would.

        What was acknowledged with majority is in the journal.
        """
        if self._process is not None:
            self._process.kill()

    def pause(self) -> None:
        """SIGSTOP: alive for the kernel, silent for everybody else."""
        self.process.signal(signal.SIGSTOP)

    def resume(self) -> None:
        if self._process is not None:
            self._process.signal(signal.SIGCONT)

    def client(self, timeout_seconds: float = 2.0) -> AbstractContextManager[Client]:
        """A direct connection to this very member, whatever its state in the set."""
        return direct_client(self.port, timeout_seconds)

    def hello(self) -> dict[str, Any]:
        """The answer of `hello`, or {} when the member does not answer."""
        try:
            with self.client(timeout_seconds=0.2) as client:
                return client.admin.command("hello")
        except PyMongoError:
            return {}

    def _answers(self, process: ChildProcess, port: int) -> bool:
        """Whether the process that listens on the port is ours."""
        try:
            with direct_client(port, timeout_seconds=0.1) as client:
                return bool(client.admin.command("serverStatus")["pid"] == process.pid)
        except PyMongoError:
            return False

    def _describe(self, port: int) -> ChildProcess:
        argv = (*self._argv, "--dbpath", str(self.folder), "--port", str(port))
        log = self.folder.with_suffix(".log")
        return ChildProcess("mongod", argv, log, keep_fds=(self._lock_fd,), is_notable=_is_complaint)


def _is_complaint(line: str) -> bool:
    """A warning, error or fatal line.

    The dozens about an orderly exit after a fatal one only hide it.
    """
    return re.search(r'"s":"[WEF]"', line) is not None
