"""A TCP link to a server that now and then dies under a request: before the server gets it, or before its answer.

Requests by which a driver watches its server pass unharmed, so that a cut costs one call and not half a second.
"""

from __future__ import annotations

import random
import socket
import threading
from contextlib import suppress

LOOPBACK = "127.0.0.1"


class FlakyLink:
    """Listens on `port`. `requests_lost` and `replies_lost` count what was done."""

    def __init__(self, target_port: int, cut_share: float, rng: random.Random) -> None:
        self._target_port = target_port
        self._cut_share = cut_share
        self._rng = rng
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port = int(self._listener.getsockname()[1])
        self.requests_lost = self.replies_lost = 0
        self._is_closed = False
        self._spawn(self._accept)

    def close(self) -> None:
        self._is_closed = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(5)  # it may hold a connection that is in no list yet
        self._listener.close()
        with self._lock:
            for each in list(self._sockets):
                _end(each)
        for thread in self._threads:
            thread.join(5)

    def _spawn(self, work: object, *words: object) -> None:
        thread = threading.Thread(target=work, args=words, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._is_closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection((LOOPBACK, self._target_port))
            with self._lock:
                self._sockets |= {client, server}
            is_doomed = threading.Event()
            self._spawn(self._upstream, client, server, is_doomed)
            self._spawn(self._downstream, client, server, is_doomed)

    def _upstream(self, client: socket.socket, server: socket.socket, is_doomed: threading.Event) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                fate = self._rng.random()
                if b"hello" in data or b"isMaster" in data or fate > self._cut_share:
                    server.sendall(data)
                elif fate < self._cut_share / 2:
                    self.requests_lost += 1
                    break
                else:
                    self.replies_lost += 1
                    is_doomed.set()
                    server.sendall(data)
        self._hang_up(client, server, is_doomed)

    def _downstream(self, client: socket.socket, server: socket.socket, is_doomed: threading.Event) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                if is_doomed.is_set():
                    break
                client.sendall(data)
        is_doomed.clear()
        self._hang_up(client, server, is_doomed)

    def _hang_up(self, client: socket.socket, server: socket.socket, is_doomed: threading.Event) -> None:
        if is_doomed.is_set():
            return  # the answer has no receiver any more
        for each in (client, server):
            _end(each)
        with self._lock:
            self._sockets -= {client, server}


def _end(each: socket.socket) -> None:
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()
