"""A real HTTP server on loopback that answers what the test wrote down, and remembers what it was asked."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    params: Mapping[str, str]
    body: object
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Answer:
    status: int = 200
    body: object = None
    headers: Mapping[str, str] = field(default_factory=dict)
    hang_up: bool = False
    """Close the connection without a word."""
    raw: bytes | None = None
    stay_open: bool = False
    """After `raw`, keep the connection until the client or the test ends."""


@dataclass
class ScriptedServer:
    url: str
    asked: list[Asked] = field(default_factory=list)
    script: list[Answer] = field(default_factory=list)
    routes: dict[tuple[str, str], Callable[[Asked], Answer]] = field(default_factory=dict)
    closing: threading.Event = field(default_factory=threading.Event)

    def answer(self, asked: Asked) -> Answer:
        self.asked.append(asked)
        route = self.routes.get((asked.method, asked.path))
        if route is not None:
            return route(asked)
        return self.script.pop(0) if self.script else Answer(599, {"error": f"nothing scripted for {asked}"})


@contextmanager
def scripted_server() -> Iterator[ScriptedServer]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            raw = self.rfile.read(length)
            parts = urlsplit(self.path)
            params = {key: values[0] for key, values in parse_qs(parts.query).items()}
            body = json.loads(raw) if raw else None
            self._reply(server.answer(Asked(self.command, parts.path, params, body, dict(self.headers.items()))))

        do_GET = do_POST = do_DELETE = do_PATCH = _serve

        def _reply(self, answer: Answer) -> None:
            if answer.hang_up:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if answer.raw is not None:
                self._reply_raw(answer)
                return
            payload = b"" if answer.body is None else json.dumps(answer.body).encode()
            if "Content-Length" not in answer.headers:
                self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def _reply_raw(self, answer: Answer) -> None:
            assert answer.raw is not None
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(answer.raw)
            self.wfile.flush()
            self.close_connection = True
            if answer.stay_open:
                server.closing.wait(30)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        listener.daemon_threads = True
        server = ScriptedServer(f"http://127.0.0.1:{listener.server_address[1]}")
        thread = threading.Thread(target=listener.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.closing.set()
        listener.shutdown()
        thread.join()
