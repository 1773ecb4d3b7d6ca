"""An ingest server over real HTTP that misbehaves on request."""

from __future__ import annotations

import gzip
import json
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Events = list[dict[str, Any]]
SOURCE = "runpod://pod/p1"


@dataclass
class Reply:
    status: int = 202
    body: Any = None  # None: the counts of a good answer
    headers: dict[str, str] = field(default_factory=dict)
    is_stored: bool = True
    is_reset: bool = False  # cut the connection instead of answering


class IngestServer:
    """Stores events by id like ingest does; `plan` decides the answer to each request, given its events."""

    def __init__(self) -> None:
        self.plan: Callable[[Events], Reply | None] = lambda events: None
        self.stored: Counter[str] = Counter()
        self.events: Events = []
        self.requests: list[int] = []  # how many lines each had
        self.headers: list[dict[str, str]] = []
        self.connections = 0
        self.changed = threading.Condition()
        self.open(0)

    def open(self, port: int) -> None:
        self._http = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self._http.daemon_threads = True
        self.port = self._http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=lambda: self._http.serve_forever(0.01))
        self._thread.start()

    def fail_first(self, *replies: Reply) -> None:
        """Answer the next requests with these, then normally."""
        waiting = list(replies)
        self.plan = lambda events: waiting.pop(0) if waiting else None

    def wait_for(self, passed: Callable[[], bool], seconds: float = 60) -> None:
        with self.changed:
            assert self.changed.wait_for(passed, seconds), "the server saw it in time"

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def _answer(self, events: Events, headers: dict[str, str]) -> Reply:
        with self.changed:
            reply = self.plan(events) or Reply()
            self.requests.append(len(events))
            self.headers.append(headers)
            errors = reply.body.get("errors", []) if isinstance(reply.body, dict) else []
            refused = {error["line"] - 1 for error in errors}
            if reply.is_stored and reply.status < 300:
                for place, event in enumerate(events):
                    if place not in refused:
                        self.stored[event["id"]] += 1
                        self.events.append(event)
            self.changed.notify_all()
            return reply

    def _handler(server) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 60
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                server.connections += 1

            def do_POST(self) -> None:
                assert self.path == "/api/ingest/events"
                body = gzip.decompress(self.rfile.read(int(self.headers["Content-Length"])))
                events, errors = _parsed(body)
                reply = server._answer(events, dict(self.headers))
                if reply.is_reset:
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.close_connection = True
                    self.connection.close()
                    return
                counts = {"accepted": len(events), "duplicates": 0, "fenced": 0, "errors": errors}
                content = (
                    reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body or counts).encode()
                )
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def finish(self) -> None:
                try:
                    super().finish()
                except (OSError, ValueError):
                    pass

            def log_message(self, *words: Any) -> None:
                pass

        return Handler


def _parsed(body: bytes) -> tuple[Events, list[dict[str, Any]]]:
    """The events, and an error for each line that is none: ingest rejects such a line alone."""
    events, errors = [], []
    for number, line in enumerate(body.split(b"\n")[:-1], 1):
        try:
            events.append(json.loads(line.decode()))
        except ValueError:
            errors.append({"line": number, "code": "invalid", "error": "not JSON"})
    return events, errors


def refuse(*lines: int, code: str = "invalid") -> Reply:
    """207 with these 1-based lines in error, the others stored."""
    return Reply(207, {"accepted": 1, "errors": [{"line": line, "code": code, "error": "no"} for line in lines]})
