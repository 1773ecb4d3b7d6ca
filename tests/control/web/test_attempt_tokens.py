"""An attempt's token writes what that attempt of that run may write, and opens nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from pod_worker.artifacts.object_store import ObjectStore
from pod_worker.core.credentials.attempt_token import mint
from tests.control.conftest import TOKEN, Plane
from tests.control.lines import JSON, NDJSON, event, ndjson

REMOTE = {"client": "203.0.113.9", "base_url": "http://control.example"}
UPLOAD = {"action": "put", "filename": "a.txt", "bytes": 3}


@pytest.fixture(autouse=True)
def runs(store: Any) -> None:
    for run_id in ("r1", "r2", "a/b"):
        store["runs"].insert_one(
            {"_id": run_id, "status": "RUNNING", "attempt": 2, "leaseToken": f"lease-{run_id}"}
        )


@pytest.fixture
def http(plane: Plane, s3: Any) -> TestClient:
    return plane(object_store=ObjectStore(s3.endpoint, s3.access_key, s3.secret_key, s3.bucket), **REMOTE)


def bearer(run_id: str = "r1", attempt: int = 2, secret: str = TOKEN) -> dict[str, str]:
    return {"Authorization": f"Bearer {mint(secret, run_id, attempt)}"}


def test_lines_of_other_runs_and_attempts_are_refused_alone(http: TestClient, store: Any) -> None:
    lines = ndjson(
        event("mine", attempt=2),
        event("other-attempt", attempt=3),
        event("no-attempt"),
        event("other-run", run="r2", attempt=2),
        event("pod", attempt=2) | {"subject": "pod/p1"},
        event("nested", extensions={"attempt": 2}),
    )
    answer = http.post("/api/ingest/events", content=lines, headers=NDJSON | bearer())
    assert (answer.status_code, answer.json()["accepted"], answer.json()["invalid"]) == (207, 2, 4)
    assert {(each["line"], each["code"]) for each in answer.json()["errors"]} == {
        (2, "forbidden"),
        (3, "forbidden"),
        (4, "forbidden"),
        (5, "forbidden"),
    }
    assert {each["_id"] for each in store["events"].find()} == {"mine", "nested"}


def test_one_event_of_another_run_is_403(http: TestClient) -> None:
    def post(found: dict[str, Any]) -> int:
        return http.post("/api/ingest/event", json=found, headers=JSON | bearer()).status_code

    assert post(event("e1", attempt=2)) == 201
    assert post(event("e2", run="r2", attempt=2)) == 403
    binary = {"ce-specversion": "1.0", "ce-id": "e3", "ce-source": "s", "ce-type": "ai.run.log"}
    binary |= {"ce-subject": "run/r2", "ce-time": "2026-01-01T00:00:00Z", "ce-attempt": "2"}
    body = {"run_id": "r2", "level": "info", "message": "x"}
    assert http.post("/api/ingest/event", json=body, headers=JSON | binary | bearer()).status_code == 403


def test_a_superseded_attempt_is_fenced(http: TestClient) -> None:
    old = bearer(attempt=1)
    stored = http.post("/api/ingest/event", json=event("e1", attempt=1), headers=JSON | old)
    assert stored.json() == {"event_id": "e1", "status": "fenced"}
    put = UPLOAD | {"attempt": 1, "lease_token": "lease-r1"}
    assert http.post("/api/runs/r1/artifacts/presign", json=put, headers=old).json()["code"] == "fenced"
    figures = http.post("/api/training/jobs/r1/metrics", json={"step": 1, "loss": 1}, headers=old)
    assert figures.json() == {"status": "ok", "command": "stop"}


def test_metrics_of_its_own_run_count_for_its_attempt(http: TestClient, store: Any) -> None:
    figures = {"step": 1, "loss": 0.5}
    assert http.post("/api/training/jobs/r1/metrics", json=figures, headers=bearer()).json() == {"status": "ok"}
    assert [each["attempt"] for each in store["events"].find()] == [2]
    assert http.post("/api/training/jobs/r2/metrics", json=figures, headers=bearer()).status_code == 403


@pytest.mark.parametrize("verb", ["presign", "finalize", "abort"])
def test_artifacts_are_written_for_its_own_attempt_only(http: TestClient, verb: str) -> None:
    rest = {"key": "runs/r1/2/a.txt", "sha256": "0" * 64, "kind": "data", "content_type": "text/plain"}
    body = UPLOAD | rest | {"upload_id": "none"}
    for run_id, attempt in (("r2", 2), ("r1", 1), ("r1", None), ("r1", "2"), ("r1", True), ("r1", 2.0)):
        named = body | {"attempt": attempt, "lease_token": f"lease-{run_id}"}
        answer = http.post(f"/api/runs/{run_id}/artifacts/{verb}", json=named, headers=bearer())
        assert (answer.status_code, answer.json()["code"]) == (403, "other_attempt"), (run_id, attempt)
    mine = body | {"attempt": 2, "lease_token": "lease-r1"}
    answer = http.post(f"/api/runs/r1/artifacts/{verb}", json=mine, headers=bearer())
    assert answer.status_code not in (401, 403), answer.text


def test_artifacts_are_read_of_its_own_run_only(http: TestClient) -> None:
    get = {"action": "get", "key": "runs/r1/1/a.txt"}
    assert http.post("/api/runs/r1/artifacts/presign", json=get, headers=bearer()).status_code == 404
    assert http.get("/api/runs/r1/artifacts", headers=bearer()).json() == []
    assert http.get("/api/runs/r2/artifacts", headers=bearer()).status_code == 403
    assert http.get("/api/artifacts/runs/r1/1/a.txt", headers=bearer()).status_code == 403
    for body in (b"[]", b"{", b"null"):
        answer = http.post("/api/runs/r1/artifacts/presign", content=body, headers=JSON | bearer())
        assert answer.status_code == 422


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/runs"),
        ("GET", "/api/runs/r1"),
        ("GET", "/api/runs/r1/live"),
        ("GET", "/api/stats"),
        ("GET", "/metrics"),
        ("GET", "/"),
        ("POST", "/api/runs/r1/cancel"),
        ("POST", "/api/runs/r1/reset"),
    ],
)
def test_it_opens_nothing_else(http: TestClient, method: str, path: str) -> None:
    assert http.request(method, path, headers=bearer()).status_code == 403


def test_forged_tokens_are_refused(http: TestClient) -> None:
    for forged in (bearer(secret="another"), {"Authorization": bearer()["Authorization"][:-1]}):
        answer = http.post("/api/ingest/events", content=ndjson(event("e", attempt=2)), headers=NDJSON | forged)
        assert answer.status_code == 403


def test_a_plane_without_a_key_takes_no_attempt_token(plane: Plane) -> None:
    answer = plane(token=None, **REMOTE).post(
        "/api/ingest/event", json=event("e", attempt=2), headers=JSON | bearer()
    )
    assert answer.status_code == 403
