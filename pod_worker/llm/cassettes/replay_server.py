"""Recorded answers over HTTP, in the forms of OpenAI and Anthropic.

It listens on this machine only. It needs no key and checks none.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pod_worker.llm.cassettes.faults import ModelFaultError, read_fault
from pod_worker.llm.cassettes.replay import Replay, Reply, ResetConnectionError
from pod_worker.llm.cassettes.served_wire import ServedAnthropic, ServedOpenAi, ServedRequestError, ServedWire

BODY_LIMIT_BYTES = 64 * 2**20
_WIRES: dict[str, ServedWire] = {
    "/v1/chat/completions": ServedOpenAi(),
    "/chat/completions": ServedOpenAi(),
    "/v1/messages": ServedAnthropic(),
}


class ReplayServer:
    """`with ReplayServer(replay) as server:` serves in threads until the block ends."""

    def __init__(self, replay: Replay, port: int = 0) -> None:
        """Raises OSError for a port that is in use."""
        self.replay = replay
        self._http = _HttpServer(("127.0.0.1", port), _Handler)
        self._http.replay = replay
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        """ANTHROPIC_BASE_URL."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def openai_url(self) -> str:
        """OPENAI_BASE_URL."""
        return f"{self.url}/v1"

    def __enter__(self) -> ReplayServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.replay.close()
        self._http.shutdown()
        self._http.server_close()


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    replay: Replay

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that closes its connection is no error of the server."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # headers and body in one packet
    server: _HttpServer

    def do_GET(self) -> None:
        replay = self.server.replay
        if self.path == "/counts":
            self._send(Reply.of_json(200, replay.counts.to_json()))
        elif self.path in ("/v1/models", "/models"):
            models = [{"id": name, "object": "model", "type": "model"} for name in replay.cassettes.models()]
            self._send(Reply.of_json(200, {"object": "list", "data": models}))
        else:
            self._send(_problem(404, f"no page {self.path}"))

    def do_POST(self) -> None:
        body = self._read_body()
        if body is None:
            self._send(_problem(400, "the body is no JSON object"))
        elif self.path == "/faults":
            self._send(self._set_faults(body))
        elif wire := _WIRES.get(self.path):
            self._answer(wire, body)
        else:
            self._send(_problem(404, f"no page {self.path}"))

    def _answer(self, wire: ServedWire, body: dict[str, Any]) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            reply = self.server.replay.answer(wire, body, headers)
        except ResetConnectionError:
            self._reset()
        except ServedRequestError as error:
            self._send(Reply.of_json(400, wire.error(str(error), "invalid_request_error")))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            self._send(
                Reply.of_json(400, wire.error(f"the request is malformed: {error!r}", "invalid_request_error"))
            )
        else:
            self._send(reply)

    def _set_faults(self, body: dict[str, Any]) -> Reply:
        """`{"faults": ["rate_limit@2"]}`; counting starts again."""
        try:
            faults = [read_fault(str(text)) for text in body.get("faults") or []]
        except ModelFaultError as error:
            return _problem(400, str(error))
        self.server.replay.faults.replace(faults)
        return Reply.of_json(200, {"faults": len(faults)})

    def _read_body(self) -> dict[str, Any] | None:
        try:
            size = int(self.headers.get("Content-Length") or 0)
            if not 0 <= size <= BODY_LIMIT_BYTES:
                self.close_connection = True
                return None
            body = json.loads(self.rfile.read(size))
        except (ValueError, RecursionError):
            return None
        return body if isinstance(body, dict) else None

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(len(reply.body)))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.body)

    def _reset(self) -> None:
        """Close with RST: the client sees a connection reset by its peer."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are counted, not logged: their text may be private."""


def _problem(status: int, message: str) -> Reply:
    return Reply.of_json(status, {"error": {"message": message}})
