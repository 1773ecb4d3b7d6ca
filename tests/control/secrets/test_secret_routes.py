"""Sealed secrets leave the control plane for the worker that holds the run, and for no one else."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from fastapi.testclient import TestClient

from pod_worker.core.credentials.attempt_token import mint
from pod_worker.sealing import PrivateKey, seal
from tests.control.conftest import TOKEN, Db, Plane

VALUE = "sentinel-0123456789"
PHRASE = "encryption-key-0123456789-0123456789"
REMOTE = {"client": "203.0.113.9", "base_url": "http://control.example"}
OPERATOR = {"Authorization": f"Bearer {TOKEN}"}
HELD = {"attempt": 2, "lease_token": "lease-r1"}
KEY = PrivateKey.derive_from_token(TOKEN)


def _insert(store: Db, run_id: str, key: PrivateKey = KEY, **sealed: str) -> None:
    texts = {name: seal(key.public, name, value) for name, value in sealed.items()}
    document: dict[str, Any] = {"_id": run_id, "status": "RUNNING", "attempt": 2, "leaseToken": f"lease-{run_id}"}
    document |= {"pipeline": "command", "params": {"run": "true", "secrets": sorted(sealed)}}
    store["runs"].insert_one(document | {"sealedSecrets": texts})


@pytest.fixture
def http(plane: Plane) -> TestClient:
    return plane(**REMOTE)


def test_the_worker_that_holds_the_run_gets_the_values(http: TestClient, store: Db) -> None:
    _insert(store, "r1", HF_TOKEN=VALUE, B="b")
    answer = http.post("/api/runs/r1/secrets", json=HELD, headers=OPERATOR)
    assert (answer.status_code, answer.json()) == (200, {"HF_TOKEN": VALUE, "B": "b"})
    assert answer.headers["cache-control"] == "no-store"


def test_a_run_without_secrets_has_none(http: TestClient, store: Db) -> None:
    store["runs"].insert_one({"_id": "r1", "status": "RUNNING", "attempt": 2, "leaseToken": "lease-r1"})
    assert http.post("/api/runs/r1/secrets", json=HELD, headers=OPERATOR).json() == {}


@pytest.mark.parametrize(
    "body", [HELD | {"attempt": 1}, HELD | {"lease_token": "lease-r2"}, HELD | {"lease_token": ""}]
)
def test_another_attempt_or_lease_gets_nothing(http: TestClient, store: Db, body: dict[str, Any]) -> None:
    _insert(store, "r1", HF_TOKEN=VALUE)
    answer = http.post("/api/runs/r1/secrets", json=body, headers=OPERATOR)
    assert (answer.status_code, answer.json()["code"]) == (409, "fenced")
    assert VALUE not in answer.text


@pytest.mark.parametrize(
    "body", [{"attempt": 2}, {"attempt": 2, "lease_token": None}, {"attempt": 2, "lease_token": {"$ne": ""}}]
)
def test_a_request_without_a_lease_is_refused(http: TestClient, store: Db, body: dict[str, Any]) -> None:
    store["runs"].insert_one({"_id": "r1", "attempt": 2, "sealedSecrets": {"A": seal(KEY.public, "A", VALUE)}})
    assert http.post("/api/runs/r1/secrets", json=body, headers=OPERATOR).status_code == 422


def test_the_token_of_an_attempt_opens_nothing(http: TestClient, store: Db) -> None:
    _insert(store, "r1", HF_TOKEN=VALUE)
    attempt = {"Authorization": f"Bearer {mint(TOKEN, 'r1', 2)}"}
    answer = http.post("/api/runs/r1/secrets", json=HELD, headers=attempt)
    assert (answer.status_code, answer.json()["code"]) == (403, "other_attempt")
    assert http.get("/api/secrets/public-key", headers=attempt).status_code == 403
    assert http.post("/api/runs/r1/secrets", json=HELD).status_code == 401


def test_the_public_key_is_that_of_the_encryption_key_else_of_the_token(plane: Plane) -> None:
    def public_key(**settings: Any) -> str:
        return str(plane(**settings).get("/api/secrets/public-key", headers=OPERATOR).json()["public_key"])

    assert public_key() == KEY.public
    assert public_key(encryption_key=PHRASE) == PrivateKey.derive(PHRASE).public


def test_a_plane_without_any_key_names_the_fix(plane: Plane, store: Db) -> None:
    _insert(store, "r1", HF_TOKEN=VALUE)
    bare = plane(token=None)
    for answer in (bare.get("/api/secrets/public-key"), bare.post("/api/runs/r1/secrets", json=HELD)):
        assert (answer.status_code, answer.json()["code"]) == (409, "no_sealing_key")
        assert "set ENCRYPTION_KEY" in answer.json()["detail"]


def test_secrets_of_another_key_name_the_fix(http: TestClient, store: Db) -> None:
    _insert(store, "r1", PrivateKey.derive(PHRASE), HF_TOKEN=VALUE)
    answer = http.post("/api/runs/r1/secrets", json=HELD, headers=OPERATOR)
    assert (answer.status_code, answer.json()["code"]) == (409, "sealed_for_another_key")
    assert "'HF_TOKEN'" in answer.json()["detail"]


def test_neither_values_nor_sealed_texts_are_shown(
    http: TestClient, store: Db, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="pod_worker")
    _insert(store, "r1", HF_TOKEN=VALUE)
    (run,) = store["runs"].find()
    sealed = run["sealedSecrets"]["HF_TOKEN"]
    http.post("/api/runs/r1/secrets", json=HELD, headers=OPERATOR)
    paths = ["/api/runs", "/api/runs/r1", "/api/runs/r1/events", "/api/stats", "/metrics", "/"]
    shown = "".join(http.get(path, headers=OPERATOR).text for path in paths) + caplog.text
    assert "r1" in shown
    assert not [text for text in (VALUE, sealed, "sealedSecrets") if text in shown]
