"""Programs behave alike under nohup, in background jobs and behind a proxy."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
import requests

from pod_worker.cli.startup import bypass_proxy_on_loopback

DEAD_PROXY = "http://127.0.0.1:9"
INHERITED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGCHLD)

PROGRAM = """
import os, signal, subprocess
from pod_worker.cli.startup import prepare_process
prepare_process()
os.kill(os.getpid(), signal.SIGHUP)
os.kill(os.getpid(), signal.SIGINT)
print(subprocess.run(["cat", "/proc/self/status"], check=True, capture_output=True, text=True).stdout, flush=True)
os.kill(os.getpid(), signal.SIGTERM)
signal.pause()
"""


def test_ignored_signals_stay_ignored_here_and_are_not_passed_on() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        preexec_fn=lambda: [signal.signal(number, signal.SIG_IGN) for number in INHERITED] and None,
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    mask = next(line for line in ended.stdout.splitlines() if line.startswith("SigIgn:"))
    # The C library's own signals (32, 33) may be ignored too; Python cannot change those.
    ignored = {number for number in INHERITED if int(mask.split()[1], 16) & 1 << (number - 1)}
    assert not ignored, "the child starts with the defaults"
    assert ended.returncode == -signal.SIGTERM, "SIGTERM is always heard"


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, None),
        ({"http_proxy": DEAD_PROXY}, "localhost,127.0.0.1,::1"),
        (
            {"HTTPS_PROXY": DEAD_PROXY, "no_proxy": "a.example, localhost"},
            "a.example,localhost,127.0.0.1,::1",
        ),
        ({"ALL_PROXY": DEAD_PROXY, "NO_PROXY": "a.example"}, "a.example,localhost,127.0.0.1,::1"),
    ],
)
def test_loopback_is_added_to_what_is_exempt(env: dict[str, str], expected: str | None) -> None:
    for _ in range(2):
        bypass_proxy_on_loopback(env)
        assert env.get("no_proxy") == env.get("NO_PROXY") == expected


def test_an_exemption_of_everything_is_kept() -> None:
    env = {"http_proxy": DEAD_PROXY, "no_proxy": "*"}
    bypass_proxy_on_loopback(env)
    assert env["no_proxy"] == "*"


@pytest.fixture
def server() -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield serving.server_port
        serving.shutdown()
        thread.join()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_every_http_client_reaches_this_machine_past_a_proxy(
    server: int, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, DEAD_PROXY)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    url = f"http://{host}:{server}/"
    with pytest.raises(requests.exceptions.ProxyError):
        requests.get(url, timeout=5)
    bypass_proxy_on_loopback(os.environ)
    assert requests.get(url, timeout=5).status_code == 204
    assert httpx.get(url, timeout=5).status_code == 204
    with urllib.request.build_opener().open(url, timeout=5) as answer:
        assert answer.status == 204
