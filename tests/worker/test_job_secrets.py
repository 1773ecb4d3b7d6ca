"""A worker asks a real control plane for the secrets of a job, and names what stands in the way."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from pymongo.database import Database

from pod_worker.control.app import build_app
from pod_worker.control.server import bind
from pod_worker.core.credentials.secret import Redactor
from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.lease import Fence
from pod_worker.core.outcome import Failed
from pod_worker.core.run import Run, RunStatus
from pod_worker.sealing import PrivateKey, seal
from pod_worker.store.mongo import connect
from pod_worker.worker.attempt.attempt_environment import AttemptEnvironment
from pod_worker.worker.secrets_client import fetch_secrets, secret_names
from tests.worker.hostile import supervised

Db = Database[dict[str, Any]]
TOKEN = "control-token-0123456789"
VALUE = "sentinel-0123456789"
HELD = Fence("r1", 2, "lease")


@pytest.fixture
def url(mongodb_url: str) -> Iterator[str]:
    database = connect(mongodb_url)
    server = uvicorn.Server(
        uvicorn.Config(build_app(database, None, token=TOKEN, open_on_loopback=False), log_config=None)
    )
    listener = bind("127.0.0.1", 0, 64)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()
    listener.close()
    database.client.close()


def _insert(db: Db, key: PrivateKey) -> None:
    sealed = {name: seal(key.public, name, VALUE) for name in ("A", "B")}
    db["runs"].insert_one({"_id": "r1", "attempt": 2, "leaseToken": "lease", "sealedSecrets": sealed})


def test_the_values_of_the_named_secrets_arrive(db: Db, url: str) -> None:
    _insert(db, PrivateKey.derive_from_token(TOKEN))
    assert fetch_secrets(url, TOKEN, HELD, ["A"], 20) == {"A": VALUE}
    with pytest.raises(RunError, match="no value of the secret C: submit the job") as raised:
        fetch_secrets(url, TOKEN, HELD, ["A", "C"], 20)
    assert raised.value.code is FailureCode.INVALID_INPUT


def test_each_refusal_is_named(db: Db, url: str) -> None:
    _insert(db, PrivateKey.derive_from_token("another"))
    for given, code, text in (
        ((url, TOKEN, HELD), FailureCode.INVALID_INPUT, "sealed for another key"),
        ((url, TOKEN, Fence("r1", 1, "lease")), FailureCode.ENVIRONMENT, "not held by this attempt"),
        ((url, "wrong", HELD), FailureCode.ENVIRONMENT, "check CONTROL_PLANE_TOKEN"),
        ((f"{url}/elsewhere", TOKEN, HELD), FailureCode.ENVIRONMENT, "cannot be fetched"),
        (("http://127.0.0.1:9", TOKEN, HELD), FailureCode.ENVIRONMENT, "Check CONTROL_PLANE_URL"),
    ):
        with pytest.raises(RunError, match=text) as raised:
            fetch_secrets(*given, ["A"], 0.3 if given[0].endswith(":9") else 20)
        assert raised.value.code is code


def test_only_a_command_names_secrets() -> None:
    def named(pipeline: str, params: dict[str, Any]) -> list[str]:
        return secret_names(Run("r", pipeline, pipeline, RunStatus.RUNNING, params))

    assert named("command", {"secrets": ["A"]}) == ["A"]
    assert named("synthetic", {"secrets": ["A"]}) == named("command", {}) == named("command", {"secrets": 1}) == []


def test_what_the_child_is_given_is_masked_for_this_attempt(
    db: Db, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AttemptEnvironment, "job_secrets", lambda *_: {"A": VALUE})
    program = """
secret = spec["job_secrets"]["A"]
print("has", len(secret), secret, flush=True)
uplink.write(json.dumps({"type": "checkpoint", "stage": "s", "done": False, "state": {"k": secret}}).encode() + b"\\n")
uplink.write(json.dumps({"type": "outcome", "kind": "failed", "code": "USER_ERROR", "message": secret}).encode() + b"\\n")
os._exit(1)
"""
    shared = Redactor()
    with supervised(db, tmp_path, program, redactor=shared) as attempt:
        attempt.result()
    assert [log.message for log in attempt.logs] == [f"has {len(VALUE)} ***"]
    assert attempt.document["checkpoints"]["s"]["state"] == {"k": "***"}
    assert VALUE not in repr(attempt.document) + repr(attempt.events)
    assert not shared, "other runs would be masked too"


def test_a_refusal_ends_the_attempt_with_its_name(db: Db, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> dict[str, str]:
        raise RunError(FailureCode.INVALID_INPUT, "the run has no value of the secret A")

    monkeypatch.setattr(AttemptEnvironment, "job_secrets", refuse)
    with supervised(db, tmp_path, "succeed()") as attempt:
        outcome = attempt.result().outcome
    assert isinstance(outcome, Failed)
    assert outcome.failure.code is FailureCode.INVALID_INPUT
