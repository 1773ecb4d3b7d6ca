"""How a client gets a server.

It starts one, or asks the guard, which alone is root.

A starter returns a new client end of a server's control socket.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.process.folder_access import closed_folder
from pod_worker.process.sandbox_server import START_REQUEST, SandboxIds, server_environment, start_server
from pod_worker.sandbox.identity import SANDBOX_UID

GUARD_SECONDS = 30.0
END_SECONDS = 10.0


class ServerStarter(Protocol):
    def start(self) -> socket.socket:
        """The client end of a new server's control socket; an earlier server ends.

        Raises RunError(ENVIRONMENT).
        """

    def close(self) -> None:
        """After the control socket was closed."""


class LocalStarter:
    """Starts servers as children of this process.

    As a user of its own where we are root and that user can reach the interpreter. `modules` instead of those
    that are imported by default.
    """

    def __init__(
        self, modules: Sequence[str] = (), python: str = sys.executable, variables: Mapping[str, str] | None = None
    ) -> None:
        self._modules = modules
        self._python = python
        self._user = _user_of_servers(python)
        self._environment = {**server_environment(os.environ), **(variables or {})}
        self._server: subprocess.Popen[bytes] | None = None

    def start(self) -> socket.socket:
        self.close()
        try:
            self._server, client = start_server(self._user, self._environment, self._python, self._modules)
        except OSError as error:
            raise RunError(FailureCode.ENVIRONMENT, f"the sandbox server cannot be started: {error}") from None
        return client

    def close(self) -> None:
        if self._server is None:
            return
        try:
            self._server.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._server = None


class GuardStarter:
    """Asks the guard through the descriptor that it gave to this process."""

    def __init__(self, fd: int, modules: Sequence[str] = ()) -> None:
        self._guard = socket.socket(fileno=fd)
        self._guard.settimeout(GUARD_SECONDS)
        self._modules = modules

    def start(self) -> socket.socket:
        try:
            self._guard.send(START_REQUEST + " ".join(self._modules).encode())
            message, fds, _, _ = socket.recv_fds(self._guard, 4096, 1)
        except OSError as error:
            raise RunError(FailureCode.ENVIRONMENT, f"the guard does not answer: {error}") from None
        if not fds:
            cause = message.decode(errors="replace") or "the guard is gone"
            raise RunError(FailureCode.ENVIRONMENT, f"the sandbox server cannot be started: {cause}")
        return socket.socket(fileno=fds[0])

    def close(self) -> None:
        self._guard.close()


def _user_of_servers(python: str) -> SandboxIds | None:
    """None: ours. The proof of layers then reports that there is no user of their own."""
    if os.geteuid() != 0:
        return None
    places = (Path(python), Path(os.path.realpath(python)), Path(__file__))
    if any(closed_folder(place, SANDBOX_UID, (SANDBOX_UID,)) for place in places):
        return None
    return SANDBOX_UID, SANDBOX_UID, ()
