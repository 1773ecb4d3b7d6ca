"""A worker with a wrong key refuses before its first claim: the check asks a route that needs the key."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from pod_worker.worker.preflight import control_plane_check

TOKEN = "the-right-token-of-this-test"


class _ControlPlane(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        is_allowed = self.path == "/readyz" or self.headers.get("Authorization") == f"Bearer {TOKEN}"
        self.send_response(200 if is_allowed else 401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _ControlPlane) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_right_key_passes(url: str) -> None:
    assert control_plane_check(url, TOKEN)() is None


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("another-token", "refuses CONTROL_PLANE_TOKEN"),
        (None, "is not set"),
        ("two\nlines", "CONTROL_PLANE_TOKEN"),
    ],
)
def test_a_wrong_key_is_named_without_its_value(url: str, token: str | None, message: str) -> None:
    failure = control_plane_check(url, token)()
    assert failure is not None
    assert message in failure.message
    assert token is None or token not in failure.message
