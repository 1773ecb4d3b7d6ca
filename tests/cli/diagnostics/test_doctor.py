"""`doctor` finds a wrong key, an object store that refuses, queues without workers and versions that do not fit."""

from __future__ import annotations

import importlib.metadata
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from pod_worker.cli.diagnostics import doctor_checks
from pod_worker.cli.diagnostics.diagnosis import Diagnosis
from pod_worker.cli.diagnostics.doctor_checks import run_user, unmet_requirements
from pod_worker.config import load
from pod_worker.local.s3 import S3Access
from tests.cli.conftest import Cli

Db = Database[dict[str, Any]]
TOKEN = "sentinel-0123456789"


@pytest.fixture
def keyed_url() -> Iterator[str]:
    """A control plane that is ready for all and answers the rest with the key only."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_open = self.path == "/readyz" or self.headers["Authorization"] == f"Bearer {TOKEN}"
            self.send_response(200 if is_open else 403 if self.headers["Authorization"] else 401)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def check(cli: Cli, name: str) -> dict[str, str]:
    found: dict[str, str] = next(each for each in cli("doctor", "--json").json if each["check"] == name)
    assert found["verdict"] == found["status"]
    return found


@pytest.mark.parametrize(
    ("token", "status", "text"),
    [
        (TOKEN, "ok", "accepts the key"),
        ("other-0123456789abc", "bad", "refuses CONTROL_PLANE_TOKEN (HTTP 403)"),
        (None, "bad", "requires a key"),
    ],
)
def test_the_key_is_tested(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, keyed_url: str, token: str | None, status: str, text: str
) -> None:
    monkeypatch.setenv("CONTROL_PLANE_URL", keyed_url)
    if token:
        monkeypatch.setenv("CONTROL_PLANE_TOKEN", token)
    found = check(cli, "control plane")
    assert found["status"] == status
    assert text in found["text"]
    assert "sentinel" not in found["text"]


def test_waiting_runs_without_a_worker_are_reported(cli: Cli, db: Db) -> None:
    assert check(cli, "workers") | {"verdict": ""} == {
        "check": "workers", "status": "ok", "verdict": "", "text": "0 running; waiting runs: none",
    }  # fmt: skip
    cli("runs", "submit", "synthetic", "--count", "2")
    found = check(cli, "workers")
    assert found["status"] == "warn"
    assert "2 in synthetic. No running worker serves synthetic. Start one" in found["text"]
    worker = {"_id": "w", "mode": "all", "state": "idle"}
    db.workers.insert_one(worker)
    db.workers.update_one({"_id": "w"}, {"$currentDate": {"lastSeen": True}})
    assert check(cli, "workers")["status"] == "ok"
    db.workers.update_one({"_id": "w"}, [{"$set": {"lastSeen": {"$subtract": ["$$NOW", 600_000]}}}])
    assert check(cli, "workers")["status"] == "warn"
    assert "w\tall\tgone" in cli("workers").out


def test_the_object_store_is_asked(cli: Cli, monkeypatch: pytest.MonkeyPatch, s3: S3Access) -> None:
    assert check(cli, "object store")["status"] == "ok"
    monkeypatch.setenv("MINIO_ENDPOINT", s3.url)
    assert "MINIO_ACCESS_KEY" in check(cli, "object store")["text"]
    monkeypatch.setenv("MINIO_ACCESS_KEY", s3.access_key)
    monkeypatch.setenv("MINIO_SECRET_KEY", s3.secret_key)
    monkeypatch.setenv("MINIO_BUCKET", s3.bucket)
    assert check(cli, "object store")["status"] == "ok"
    monkeypatch.setenv("MINIO_SECRET_KEY", "sentinel-wrong-key")
    found = check(cli, "object store")
    assert found["status"] == "bad"
    assert "sentinel" not in found["text"]
    monkeypatch.setenv("MINIO_ENDPOINT", "http://127.0.0.1:9")
    assert check(cli, "object store")["status"] == "bad"


def test_versions_that_do_not_fit_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = {
        "transformers": ['torch>=2.6; extra == "torch"', "numpy>=1"],
        "torch": None,
        "peft": ["torch>=1.13.0"],
    }
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: needs[name])
    assert unmet_requirements({"torch": "2.13.0+cpu", "transformers": "5.24.0", "peft": "0.21"}) == []
    assert unmet_requirements({"torch": "2.4.0", "transformers": "5.24.0", "peft": "0.21"}) == [
        "transformers requires torch>=2.6"
    ]


@pytest.mark.parametrize(
    ("user", "status", "words"),
    [("none", "warn", "Unset POD_WORKER_CHILD_USER"), ("no-such-user", "bad", "there is no such user")],
)
@pytest.mark.skipif(os.geteuid() != 0, reason="only a worker that is root gives runs a user of their own")
def test_a_user_of_runs_that_protects_nothing_is_named(user: str, status: str, words: str) -> None:
    found = run_user(load({"POD_WORKER_CHILD_USER": user}, None))
    assert found.status == status
    assert words in found.text


@pytest.mark.skipif(os.geteuid() != 0, reason="only a worker that is root gives runs a user of their own")
def test_a_closed_folder_on_the_way_is_named_with_the_fix(tmp_path: Path) -> None:
    """pytest's folders are closed, as /root is on a pod."""
    found = run_user(load({"POD_WORKER_WORK_DIR": str(tmp_path / "work")}, None))
    assert found.status == "warn"
    assert "runs would work as root" in found.text
    assert "or run `chmod o+x /" in found.text
    assert not (tmp_path / "work").exists()


def test_a_training_step_is_made_on_request_only(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes 15 s; `init_runpod.sh` makes one before the pod's worker claims a run."""
    steps: list[str] = []

    def step() -> Diagnosis:
        steps.append("made")
        return Diagnosis("training", "bad", "cannot train")

    monkeypatch.setattr(doctor_checks, "training_step", step)
    assert "doctor --deep" in check(cli, "training")["text"]
    assert steps == []
    deep = cli("doctor", "--deep", "--json")
    assert (deep.code, steps) == (1, ["made"])
    assert deep.json[-1]["text"] == "cannot train"
