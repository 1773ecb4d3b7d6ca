"""A TCP proxy with weather: one listening port per link, each of which can be cut, hung, delayed or half closed.

All links live in one thread with one event loop; `set_link_state` may be called from anywhere and works on open
connections too. It understands no protocol, except that answers may be passed through a `Rewriter`.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from chaos.mongo_wire import Frames, Rewriter

LOOPBACK = "127.0.0.1"
_CHUNK = 64 * 1024
T = TypeVar("T")


class LinkState(StrEnum):
    CLEAR = "clear"
    CUT = "cut"  # connections are reset, new ones refused
    HANG = "hang"  # connections stay open, not a byte moves
    DELAY = "delay"  # every chunk waits, in both directions
    HALF_CLOSE = "half_close"  # open connections lose one direction; new ones are fine
    DROP_REPLIES = "drop_replies"  # requests arrive, answers are dropped: the outcome is unknown


class _Connection:
    def __init__(self, client: asyncio.StreamWriter) -> None:
        self.client = client
        self.server: asyncio.StreamWriter | None = None
        self.is_tainted = False  # bytes are missing: it must not be used again

    def abort(self) -> None:
        for writer in (self.client, self.server):
            if writer is not None:
                writer.transport.abort()

    def half_close(self) -> None:
        """The client sees the end of the stream, while what it sends still arrives."""
        self.is_tainted = True
        with contextlib.suppress(OSError, RuntimeError):
            self.client.write_eof()


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Link:
    """One port in front of one server. Made by `Proxy.add`."""

    def __init__(self, name: str, target: Address) -> None:
        self.name = name
        self.target = target
        self.address = Address(LOOPBACK, 0)
        self.rewriter: Rewriter | None = None
        self.weather = LinkState.CLEAR
        self.delay_seconds = 0.0
        self._moving = asyncio.Event()
        self._moving.set()
        self._connections: set[_Connection] = set()

    async def open(self) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, LOOPBACK, 0)
        self.address = Address(LOOPBACK, int(server.sockets[0].getsockname()[1]))
        return server

    def change(self, weather: LinkState, delay_seconds: float) -> None:
        """In the loop's thread only."""
        before, self.weather, self.delay_seconds = self.weather, weather, delay_seconds
        if weather is LinkState.HANG:
            self._moving.clear()
        else:
            self._moving.set()
        for connection in list(self._connections):
            if weather is LinkState.CUT or (before is not weather and connection.is_tainted):
                connection.abort()
            elif weather is LinkState.HALF_CLOSE:
                connection.half_close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(writer)
        self._connections.add(connection)
        try:
            if self.weather is LinkState.CUT:
                return
            await self._moving.wait()
            with contextlib.suppress(OSError):
                server_reader, connection.server = await asyncio.open_connection(
                    self.target.host, self.target.port
                )
                await self._pump_both(connection, reader, server_reader)
        finally:
            connection.abort()
            self._connections.discard(connection)

    async def _pump_both(
        self, connection: _Connection, reader: asyncio.StreamReader, server_reader: asyncio.StreamReader
    ) -> None:
        assert connection.server is not None
        pumps = [
            asyncio.create_task(self._pump(reader, connection.server)),
            asyncio.create_task(self._pump_answers(connection, server_reader)),
        ]
        _, pending = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pending:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK):
            await self._wait()
            writer.write(data)
            await writer.drain()

    async def _pump_answers(self, connection: _Connection, reader: asyncio.StreamReader) -> None:
        frames = Frames()
        while data := await reader.read(_CHUNK):
            await self._wait()
            if self.rewriter is not None:
                data = b"".join(map(self.rewriter.rewrite, frames.feed(data)))
            if self.weather is LinkState.DROP_REPLIES:
                connection.is_tainted = True
            if not connection.is_tainted:
                connection.client.write(data)
                await connection.client.drain()

    async def _wait(self) -> None:
        await self._moving.wait()
        if self.weather is LinkState.DELAY:
            await asyncio.sleep(self.delay_seconds)


class Proxy:
    """The thread that runs every link; a context manager."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(_say_nothing)
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._servers: list[asyncio.Server] = []

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def add(self, name: str, target: Address) -> Link:
        """A new link to `target`, on a free port, under a clear sky."""

        async def opened() -> Link:
            link = Link(name, target)
            self._servers.append(await link.open())
            return link

        return self._do(opened())

    def set_link_state(self, link: Link, weather: LinkState, delay_seconds: float = 0.0) -> None:
        self._loop.call_soon_threadsafe(link.change, weather, delay_seconds)

    def _do(self, work: Coroutine[object, object, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=10)

    async def _close(self) -> None:
        """Every socket is closed afterwards, also of connections that were accepted just before."""
        for server in self._servers:
            for listener in server.sockets:
                self._loop.remove_reader(listener)
        await _run_scheduled()  # a connection whose server is closed, or whose task never began, stays open
        for server in self._servers:
            server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await _run_scheduled()  # an aborted transport closes its socket in a later turn of the loop


async def _run_scheduled() -> None:
    """Let the loop turn: asyncio takes three turns from an accepted socket to its handler."""
    for _ in range(10):
        await asyncio.sleep(0)


def _say_nothing(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """Connections break here on purpose; the client reports a lost one."""
