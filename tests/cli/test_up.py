"""`pod-worker up` as a process: it says "ready" with an address only when its own control plane answers there."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from pod_worker.cli.stack.up import DEFAULT_PORT, RESTART_SECONDS, is_ready
from tests.acceptance.local_stack import wait_for
from tests.cli.conftest import Cli

OTHER_STACK = b'{"ok": true, "database": "ai_scientist", "instance": "other"}'


@contextmanager
def answering(body: bytes, port: int = 0) -> Iterator[int]:
    """A server that answers every request with `body`, as another stack's control plane would."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        try:
            yield serving.server_port
        finally:
            serving.shutdown()
            thread.join()


@pytest.fixture
def busy_default_port() -> Iterator[None]:
    """DEFAULT_PORT with another stack on it: ours, or one that runs on this machine anyway."""
    try:
        with answering(OTHER_STACK, DEFAULT_PORT):
            yield
    except OSError:
        yield


def up(data: Path, *words: str, **env: str) -> subprocess.Popen[str]:
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("MONGODB", "MINIO", "CONTROL"))
    }
    return subprocess.Popen(
        [sys.executable, "-m", "pod_worker", "up", "--workers", "0", "--data", str(data), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean | env,
    )


def test_a_busy_default_port_moves_on_to_a_free_one_and_a_proxy_is_not_asked(
    busy_default_port: None, tmp_path: Path
) -> None:
    dead = "http://127.0.0.1:9"
    with up(tmp_path, http_proxy=dead, HTTP_PROXY=dead, no_proxy="", NO_PROXY="") as process:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["control_plane_url"]
        with urllib.request.urlopen(f"{url}/readyz") as answer:
            assert json.load(answer)["instance"] != "other"
        process.send_signal(signal.SIGTERM)
        _, messages = process.communicate(timeout=60)
    assert process.returncode == 0, messages
    assert not url.endswith(f":{DEFAULT_PORT}")
    assert (
        f"port {DEFAULT_PORT} is busy: the control plane listens on {url.rpartition(':')[2]} instead" in messages
    )
    assert f"ready: open {url}/" in messages


def test_a_busy_port_that_was_asked_for_stops_everything_before_it_starts(tmp_path: Path) -> None:
    with answering(OTHER_STACK) as port, up(tmp_path, "--port", str(port)) as process:
        out, messages = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"Port {port} cannot be used: Address already in use. Fix: choose another port" in messages
    assert out == ""
    assert not (tmp_path / "mongodb").exists()


@pytest.mark.parametrize("body", [OTHER_STACK, b'{"ok": true}', b"<html>", b"[]"])
def test_only_the_instance_that_was_started_is_ready(body: bytes) -> None:
    with answering(body) as port:
        assert not is_ready(f"http://127.0.0.1:{port}", "ours")
    with answering(b'{"ok": true, "instance": "ours"}') as port:
        assert is_ready(f"http://127.0.0.1:{port}", "ours")
    assert not is_ready(f"http://127.0.0.1:{port}", "ours")


@pytest.mark.parametrize("server", ["control", "fake-runpod"])
def test_a_server_on_a_busy_port_ends_with_one_line_and_the_fix(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, server: str
) -> None:
    monkeypatch.setenv("CONTROL_PLANE_TOKEN", "a-key-of-this-test")
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        result = cli(server, "--port", str(port))
    assert result.code == 1
    last = result.err.splitlines()[-1]
    assert last.startswith(f"error: cannot listen on 127.0.0.1:{port}: Address already in use")
    assert "--port" in last
    assert "Error:" not in last


def test_a_restart_keeps_the_addresses_and_the_token_and_a_dead_worker_is_started_again(tmp_path: Path) -> None:
    kept = ("mongodb_url", "control_plane_url", "token")
    with up(tmp_path, "--port", "0") as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGTERM)
        _, messages = process.communicate(timeout=60)
    assert process.returncode == 0, messages
    assert (tmp_path / "identity.json").stat().st_mode & 0o777 == 0o600
    with up(tmp_path, "--workers", "1") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        second = json.loads(process.stdout.readline())
        assert [second[name] for name in kept] == [first[name] for name in kept]
        client: MongoClient[dict[str, Any]] = MongoClient(second["mongodb_url"])
        database = client.get_default_database()
        run = {"_id": "r", "pipeline": "synthetic", "queue": "synthetic", "status": "QUEUED", "priority": 0}
        seconds = RESTART_SECONDS + 1  # a worker that dies sooner after its start is not started again
        database.runs.insert_one(run | {"params": {"seconds": seconds}, "queuedAt": datetime.now(UTC)})
        wait_for(lambda: database.runs.find_one({"_id": "r", "status": "COMPLETED"}), "the run to complete")
        os.kill(second["pids"]["worker-1"], signal.SIGKILL)
        while "restarting worker-1" not in (line := process.stderr.readline()):
            assert line, "up ended"
        client.close()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 0
