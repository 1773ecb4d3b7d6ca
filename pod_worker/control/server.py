"""Runs the app: uvicorn with a stop that finishes requests and live views.

`serve` blocks until SIGTERM or SIGINT; a second signal ends it at once. Of the app it knows only
`app.state.stopping`, an asyncio.Event that ends live views.
"""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from pod_worker.control.web.protocol import BoundedHttpProtocol, connection_limit

GRACE_SECONDS = 10
GC_THRESHOLDS = (50_000, 20, 20)


def serve(
    app: FastAPI,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    on_ready: Callable[[str, int], None] | None = None,
    grace_seconds: int = GRACE_SECONDS,
    backlog: int = 512,
) -> None:
    """Serve until a signal.

    `on_ready(host, port)` gets the real port once requests are accepted.

    Raises OSError when the address cannot be bound; the message names it.
    """
    listener = bind(host, port, backlog)
    BoundedHttpProtocol.connection_limit = connection_limit()
    # Imported modules stay, and events are many small objects without cycles: with the default thresholds the
    # garbage collector takes a tenth of all the time.
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=grace_seconds,
        timeout_keep_alive=75,
        server_header=False,
        proxy_headers=False,  # with it, a client could choose its address by X-Forwarded-For
        http=BoundedHttpProtocol,
        ws="none",
    )
    server = _Server(config, app, lambda: on_ready(host, listener.getsockname()[1]) if on_ready else None)
    try:
        server.run(sockets=[listener])
    finally:
        listener.close()


def bind(host: str, port: int, backlog: int = 512) -> socket.socket:
    """A listening socket; port 0 picks a free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(backlog)
    except OSError as error:
        listener.close()
        fix = "Choose another --port, or stop what listens there"
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}. {fix}") from None
    return listener


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, app: FastAPI, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._app = app
        self._on_ready = on_ready
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # uvicorn's own handler raises the signal again at the end; `serve` must return instead.
        self.force_exit = self.should_exit
        self.should_exit = True
        if self._loop is not None:
            # Live views end first: uvicorn waits for every open response.
            self._loop.call_soon_threadsafe(self._app.state.stopping.set)
