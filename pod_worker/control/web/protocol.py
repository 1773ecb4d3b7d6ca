"""HTTP connections with limits: request head, number, unread bodies.

The head is limited in size and time.

uvicorn bounds none of these for httptools. They hold before a request reaches the app, so before its key is known.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from pod_worker.control.web.peer import peer_uid

PEER_UID = "pod_worker.peer_uid"  # in the ASGI scope's state: a function
HEAD_LIMIT_BYTES = 64 * 1024  # request line and all headers
HEAD_SECONDS = 20.0
UNREAD_LIMIT_BYTES = 16 * 1024 * 1024  # of a body that arrives after its response
CONNECTION_LIMIT = 2000
RESERVED_DESCRIPTORS = 100  # for the database, the object store, threads and logs

log = logging.getLogger(__name__)


def connection_limit() -> int:
    """As many connections as file descriptors allow, at most CONNECTION_LIMIT."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return CONNECTION_LIMIT
    return max(10, min(CONNECTION_LIMIT, soft - RESERVED_DESCRIPTORS))


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection.

    Closes it instead of letting it take memory, time or the last file descriptor.
    """

    head_limit_bytes = HEAD_LIMIT_BYTES
    head_seconds = HEAD_SECONDS
    connection_limit = CONNECTION_LIMIT

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._head_bytes = 0
        self._is_head_open = False
        self._unread_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._peer_uid: int | None = None
        self._is_peer_known = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.connection_limit:
            log.debug("more than %d connections: closed a new one", self.connection_limit)
            transport.abort()
            return
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        is_new = not self._is_head_open
        super().data_received(data)
        if self._is_head_open:
            # Of a head that began in this chunk, only its end is in it: count the chunk all the same.
            self._head_bytes = len(data) if is_new else self._head_bytes + len(data)
            if self._head_bytes > self.head_limit_bytes:
                self._refuse_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_head_open, self._head_bytes, self._unread_bytes = True, 0, 0
        self.scope["state"][PEER_UID] = self._find_peer_uid
        if self._head_timer is None:
            self._start_head_timer()

    def on_headers_complete(self) -> None:
        self._is_head_open = False
        self._stop_head_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        if self.cycle.response_complete:
            self._unread_bytes += len(body)
            if self._unread_bytes > UNREAD_LIMIT_BYTES:
                self.transport.close()

    def _find_peer_uid(self) -> int | None:
        """The user of the client's process on this machine.

        It is looked up once, and only for requests without a key.
        """
        if not self._is_peer_known and self.client is not None and self.server is not None:
            self._is_peer_known = True
            self._peer_uid = peer_uid(self.client, (self.server[0], self.server[1] or 0))
        return self._peer_uid

    def _start_head_timer(self) -> None:
        self._head_timer = self.loop.call_later(self.head_seconds, self._abort_slow_head)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _abort_slow_head(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self.transport.close()

    def _refuse_head(self) -> None:
        self._is_head_open = False
        self._stop_head_timer()
        if self.transport.is_closing():
            return
        self.transport.write(
            b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        )
        self.transport.close()
