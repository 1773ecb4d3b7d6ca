"""Connections of a program to named hosts, made by its keeper.

The program has no call that opens or connects a socket (`kernel.seccomp`). It asks its keeper for a connection by
name and port, and receives the descriptor of a connected TCP socket, or a refusal. What it sends there is its own
matter: a host on the list may receive anything.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

DEFAULT_PORT = 443
HOSTS_LIMIT = 50
CONNECT_SECONDS = 20.0
REQUEST_BYTES = 512
OPENED_LIMIT = 10_000  # connections of one execution
_THREADS = 8
_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?(:[1-9]\d{0,4})?", re.ASCII)

Address = tuple[str, int]


def host_problem(host: str) -> str:
    """Why a text names no host of a request; empty where it does."""
    if not _HOST.fullmatch(host) or read_host(host)[1] > 65_535:
        return f"{host!r} is no host: write NAME or NAME:PORT in lower case, without a scheme and a path"
    return ""


def read_host(host: str) -> Address:
    name, _, port = host.partition(":")
    return name, int(port or DEFAULT_PORT)


class HostBroker:
    """The keeper's end; answers until `close`."""

    def __init__(self, hosts: Iterable[str]) -> None:
        self._allowed = frozenset(map(read_host, hosts))
        # Packets: several processes of the program may ask at once.
        self._requests, self.program_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="host")
        self._opened = 0

    def start(self) -> None:
        """After the program was forked: a thread would not exist in it."""
        self.program_end.close()
        threading.Thread(target=self._serve, name="hosts", daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self._requests.shutdown(socket.SHUT_RDWR)
        self._requests.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _serve(self) -> None:
        """A request is `NAME PORT` with the descriptor of a socket for its answer."""
        with suppress(OSError, RuntimeError):  # closed
            while True:
                message, fds, _, _ = socket.recv_fds(self._requests, REQUEST_BYTES, 4)
                if not message and not fds:
                    return
                for fd in fds[1:]:
                    socket.close(fd)
                if fds:
                    self._opened += 1
                    self._pool.submit(self._answer, message, socket.socket(fileno=fds[0]), self._opened)

    def _answer(self, message: bytes, answers: socket.socket, number: int) -> None:
        with answers, suppress(OSError):  # the program is gone
            try:
                address = self._allowed_address(message, number)
                with socket.create_connection(address, CONNECT_SECONDS) as connection:
                    connection.settimeout(None)
                    socket.send_fds(answers, [b"connected"], [connection.fileno()])
            except (OSError, ValueError) as error:
                answers.sendall(str(error).encode("utf-8", "replace")[:REQUEST_BYTES])

    def _allowed_address(self, message: bytes, number: int) -> Address:
        """Raises PermissionError and ValueError."""
        name, _, port = message.decode("ascii", "replace").rpartition(" ")
        if number > OPENED_LIMIT:
            raise PermissionError(f"the program has opened {OPENED_LIMIT} connections; no more are made")
        if (name, int(port)) not in self._allowed:
            raise PermissionError(f"{name[:100]}:{port[:5]} is not among the hosts that this run may reach")
        return name, int(port)
