"""Connections: the request head, idle connections and unread bodies are bounded before the app sees a request."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn

from pod_worker.control.server import bind
from pod_worker.control.web import protocol
from pod_worker.control.web.protocol import BoundedHttpProtocol

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Scene = Callable[[Callable[[], Awaitable[Streams]]], Awaitable[Any]]


@pytest.fixture
def limits() -> type[BoundedHttpProtocol]:
    class Limited(BoundedHttpProtocol):
        head_seconds = 0.3
        connection_limit = 3

    return Limited


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def serve(kind: type[BoundedHttpProtocol], scene: Scene) -> Any:
    """Run `scene(connect)` beside a server of its own on a real socket."""

    async def run() -> Any:
        listener = bind("127.0.0.1", 0)
        config = uvicorn.Config(hello, http=kind, log_config=None, access_log=False, lifespan="off", ws="none")
        server = uvicorn.Server(config)
        task = asyncio.create_task(server._serve([listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            async with asyncio.timeout(20):
                return await scene(lambda: asyncio.open_connection(*listener.getsockname()))
        finally:
            server.should_exit = server.force_exit = True
            await task
            listener.close()

    return asyncio.run(run())


async def status_of(streams: Streams) -> int:
    """0 when the connection was closed without a response."""
    line = await streams[0].readline()
    return int(line.split()[1]) if line else 0


async def close(*opened: Streams) -> None:
    for _, writer in opened:
        writer.close()
        try:
            await writer.wait_closed()
        except ConnectionError:
            continue


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nhost: x\r\nlong: " + b"x" * 100_000,
        b"GET /" + b"x" * 100_000,
        b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 20_000,
    ],
    ids=["a header", "a path", "many headers"],
)
def test_a_long_head_is_refused(limits: type[BoundedHttpProtocol], head: bytes) -> None:
    async def scene(connect: Callable[[], Awaitable[Streams]]) -> int:
        streams = await connect()
        streams[1].write(head)
        found = await status_of(streams)
        await close(streams)
        return found

    assert serve(limits, scene) == 431


def test_a_head_that_does_not_end_is_closed(limits: type[BoundedHttpProtocol]) -> None:
    async def scene(connect: Callable[[], Awaitable[Streams]]) -> list[int]:
        silent, half = await connect(), await connect()
        half[1].write(b"GET / HTTP/1.1\r\nhost:")
        found = [await status_of(each) for each in (silent, half)]
        await close(silent, half)
        return found

    assert serve(limits, scene) == [0, 0]


def test_requests_follow_each_other_on_one_connection(limits: type[BoundedHttpProtocol]) -> None:
    async def scene(connect: Callable[[], Awaitable[Streams]]) -> list[int]:
        streams = await connect()
        found = []
        for _ in range(3):
            streams[1].write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            found.append(await status_of(streams))
            await streams[0].readuntil(b"ok")
            await asyncio.sleep(limits.head_seconds * 1.5)  # idle between two requests is not a slow head
        streams[1].write(b"GET / HTTP/1.1\r\nhost: x\r\n")
        found.append(await status_of(streams))
        await close(streams)
        return found

    assert serve(limits, scene) == [200, 200, 200, 0]


def test_connections_beyond_the_limit_are_closed(limits: type[BoundedHttpProtocol]) -> None:
    async def scene(connect: Callable[[], Awaitable[Streams]]) -> list[int]:
        opened = [await connect() for _ in range(6)]
        for _, writer in opened:
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        found = []
        for each in opened:
            try:
                found.append(await status_of(each))
            except ConnectionError:
                found.append(0)
        await close(*opened)
        return sorted(found)

    assert serve(limits, scene) == [0, 0, 0, 200, 200, 200]


def test_a_body_without_end_after_the_response_closes_the_connection(
    limits: type[BoundedHttpProtocol], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "UNREAD_LIMIT_BYTES", 1024 * 1024)

    async def scene(connect: Callable[[], Awaitable[Streams]]) -> int:
        streams = await connect()
        streams[1].write(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        sent = 0
        try:
            while True:
                streams[1].write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
                await streams[1].drain()
                sent += 0x10000
        except ConnectionError:
            await close(streams)
            return sent

    assert serve(limits, scene) > 1024 * 1024


def test_the_limit_leaves_file_descriptors_for_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    for soft, expected in (
        (1024, 924),
        (64, 10),
        (10**6, protocol.CONNECTION_LIMIT),
        (-1, protocol.CONNECTION_LIMIT),
    ):
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=soft: (soft, soft))
        assert protocol.connection_limit() == expected
