"""The program's side of named hosts: `socket` asks the keeper for connections.

Libraries above it need no change: http.client, ssl, urllib3 and httpx open TCP connections through `socket.socket`
and `socket.getaddrinfo`. It runs inside the untrusted program and enforces nothing.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

_REQUEST_BYTES = 512
_connected = socket.socket
_answer_pair = socket.socketpair


class _Channel:
    """The descriptor on which the program asks its keeper."""

    fd = -1


def install(fd: int) -> None:
    """Replace the sockets of this process, which may ask on `fd`."""
    _Channel.fd = fd
    socket.socket = HostSocket  # type: ignore[misc]
    socket.getaddrinfo = _getaddrinfo
    socket.has_ipv6 = False


def open_connection(name: str, port: int) -> int:
    """The descriptor of a connected socket. Raises PermissionError or ConnectionError."""
    ours, theirs = _answer_pair()
    with ours:
        with theirs, _connected(fileno=os.dup(_Channel.fd)) as channel:
            socket.send_fds(channel, [f"{name} {port}".encode("ascii", "replace")], [theirs.fileno()])
        message, fds, _, _ = socket.recv_fds(ours, _REQUEST_BYTES, 1)
    if fds:
        return fds[0]
    raise PermissionError(errno.EACCES, message.decode("utf-8", "replace") or "the keeper does not answer")


class HostSocket(_connected):
    """A TCP socket that is a placeholder until it is connected."""

    _is_placeholder = False

    def __init__(self, family: int = -1, type: int = -1, proto: int = -1, fileno: int | None = None) -> None:
        if fileno is not None or family == socket.AF_UNIX:
            super().__init__(family, type, proto, fileno)
            return
        if type not in (-1, socket.SOCK_STREAM):
            raise PermissionError(errno.EPERM, "programs have TCP connections to named hosts only")
        ours, other = _answer_pair()
        other.close()
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM, 0, ours.detach())
        self._is_placeholder = True

    def connect(self, address: Any) -> None:
        if not self._is_placeholder:
            super().connect(address)
            return
        fd = open_connection(str(address[0]), int(address[1]))
        try:
            os.dup2(fd, self.fileno(), inheritable=False)
        finally:
            os.close(fd)
        self._is_placeholder = False
        self.settimeout(self.gettimeout())  # it is a flag of the descriptor that was replaced

    def connect_ex(self, address: Any) -> int:
        try:
            self.connect(address)
        except OSError as error:
            return error.errno or errno.EACCES
        return 0

    def setsockopt(self, *arguments: Any) -> None:
        """Options of TCP have no place in a placeholder."""
        if not self._is_placeholder:
            super().setsockopt(*arguments)


def _getaddrinfo(
    host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
) -> list[tuple[Any, ...]]:
    """The name itself: the keeper resolves it."""
    del family, type, proto, flags
    name = host.decode("ascii") if isinstance(host, bytes) else str(host)
    number = int(port) if str(port).isdigit() else socket.getservbyname(str(port), "tcp")
    return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (name.lower(), number))]
