"""A control plane with the artifact routes on a real port, a run that is held, and a publisher for it."""

from __future__ import annotations

import json
import random
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvicorn
from fastapi import FastAPI, HTTPException, Request

from pod_worker.artifacts.ledger import UploadLedger
from pod_worker.artifacts.object_store import ObjectStore
from pod_worker.artifacts.publisher import Publisher, RetryBudget
from pod_worker.control.artifacts.routes import router
from pod_worker.control.web import problem
from pod_worker.core.lease import Fence
from pod_worker.core.payload import Payload

TOKEN = "control-plane-token"
MIB = 1024 * 1024


@dataclass
class Plane:
    """The control plane and everything behind it."""

    url: str
    database: Any
    store: ObjectStore
    requests: list[tuple[str, str]] = field(default_factory=list)  # (method and path, body)

    def asked(self, route: str) -> list[dict[str, Any]]:
        return [json.loads(body) for path, body in self.requests if path.endswith(route)]


class Events:
    def __init__(self) -> None:
        self.payloads: list[Payload] = []

    def emit(self, payload: Payload) -> str:
        msgspec.json.encode(payload)  # as the real emitter would
        self.payloads.append(payload)
        return str(len(self.payloads))

    @property
    def types(self) -> list[str]:
        return [payload.type for payload in self.payloads]


class Stop:
    """Raises `error` from its n-th check on."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.after = 0
        self.checks = 0
        self.on_check: Callable[[], None] = lambda: None

    def check(self) -> None:
        self.checks += 1
        self.on_check()
        if self.error is not None and self.checks > self.after:
            raise self.error

    def is_set(self) -> bool:
        return self.error is not None


class Line:
    """A TCP connection to a server that breaks on request."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.break_after: list[tuple[str, int]] = []  # ("up" or "down", bytes) for connections to come
        self.bytes = {"up": 0, "down": 0}
        self._ends: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(10)  # it may hold a connection that is in no list yet
        self._listener.close()
        for end in self._ends:
            _shut(end)
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            self._ends += [client, server]
            way, limit = self.break_after.pop(0) if self.break_after else ("", 0)
            for name, source, sink in (("up", client, server), ("down", server, client)):
                arguments = (name, source, sink, limit if name == way else None)
                thread = threading.Thread(target=self._pump, args=arguments, daemon=True)
                self._threads.append(thread)
                thread.start()

    def _pump(self, name: str, source: socket.socket, sink: socket.socket, limit: int | None) -> None:
        moved = 0
        try:
            while block := source.recv(65536):
                if limit is not None and moved + len(block) > limit:
                    sink.sendall(block[: limit - moved])
                    break
                sink.sendall(block)
                moved += len(block)
                self.bytes[name] += len(block)
        except OSError:
            pass
        _shut(source)
        _shut(sink)
        sink.close()  # the other pump closes its own


def _shut(end: socket.socket) -> None:
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


@pytest.fixture
def line(s3: Any) -> Iterator[Line]:
    """A breakable line to the object store."""
    made = Line(s3.endpoint)
    yield made
    made.close()


@pytest.fixture
def store(s3: Any) -> ObjectStore:
    return ObjectStore(s3.endpoint, s3.access_key, s3.secret_key, s3.bucket)


@pytest.fixture
def planes(db: Any, store: ObjectStore) -> Iterator[Callable[..., Plane]]:
    """Starts control planes; give it what `router` takes, to change part size, URL lifetime or waiting."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(**settings: Any) -> Plane:
        plane = Plane("", db, store)
        app = _app(plane, settings)
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the control plane did not start"
        port = server.servers[0].sockets[0].getsockname()[1]
        plane.url = f"http://127.0.0.1:{port}"
        running.append((server, thread))
        return plane

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(10)


def _app(plane: Plane, settings: dict[str, Any]) -> FastAPI:
    def authorize(request: Request) -> None:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise HTTPException(401, "no")

    app = FastAPI()
    problem.install(app)

    @app.middleware("http")
    async def note(request: Request, go_on: Any) -> Any:
        body = await request.body()
        plane.requests.append((f"{request.method} {request.url.path}", body.decode()))
        return await go_on(request)

    app.include_router(router(plane.database, plane.store, authorize, authorize, **settings))
    return app


@pytest.fixture
def plane(planes: Callable[..., Plane]) -> Plane:
    return planes(part_bytes=MIB)


@pytest.fixture
def fence(db: Any) -> Fence:
    """A run that is held by attempt 2."""
    db["runs"].insert_one({"_id": "run1", "status": "RUNNING", "attempt": 2, "leaseToken": "token2"})
    return Fence("run1", 2, "token2")


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def stop() -> Stop:
    return Stop()


@pytest.fixture
def publisher(plane: Plane, fence: Fence, events: Events, stop: Stop, tmp_path: Path) -> Callable[..., Publisher]:
    """Makes publishers on the same ledger, as a restarted process would."""

    def make(**changes: Any) -> Publisher:
        settings: dict[str, Any] = {
            "control_plane_url": plane.url,
            "token": TOKEN,
            "writer": fence,
            "ledger": UploadLedger(tmp_path / "work" / "artifacts.jsonl"),
            "emit": events,
            "stop": stop,
            "rng": random.Random(1),
            "budget": RetryBudget(20, 0.05, 0.2),
        }
        return Publisher(**(settings | changes))

    return make


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file of `size` random bytes; the same seed gives the same bytes."""

    def write(size: int, name: str = "result.bin", seed: int = 0) -> Path:
        path = tmp_path / name
        path.write_bytes(random.Random(seed).randbytes(size))
        return path

    return write
