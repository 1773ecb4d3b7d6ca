"""Who is let in: a key, a job's own key, or this machine; never a web page of another site."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Any

import pytest

from pod_worker.control.web.auth import job_token
from tests.control.conftest import TOKEN, Plane
from tests.control.lines import JSON, event

REMOTE = {"client": "203.0.113.9", "base_url": "http://control.example"}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def basic(key: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"me:{key}".encode()).decode()}


def test_the_key_opens_from_anywhere(plane: Plane) -> None:
    assert plane(**REMOTE).get("/api/runs", headers=bearer(TOKEN)).status_code == 200


def test_without_a_key_only_this_machine(plane: Plane) -> None:
    assert plane().get("/api/runs").status_code == 200
    assert plane(client="::1", base_url="http://[::1]:8000").get("/api/runs").status_code == 200
    refused = plane(**REMOTE).get("/api/runs")
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"].startswith("Bearer")
    assert "CONTROL_PLANE_TOKEN" in refused.json()["detail"]


@pytest.mark.parametrize("where", [{}, REMOTE])
def test_a_wrong_key_is_refused_everywhere(plane: Plane, where: dict[str, str]) -> None:
    assert plane(**where).get("/api/runs", headers=bearer("wrong")).status_code == 403
    assert plane(**where).get("/api/runs", headers=bearer("")).status_code == 403
    assert plane(**where).get("/api/runs", headers={"Authorization": "Digest x"}).status_code == 403


def test_a_closed_plane_asks_this_machine_too(plane: Plane) -> None:
    assert plane(open_on_loopback=False).get("/api/runs").status_code == 401


def test_a_plane_without_key_answers_only_this_machine(plane: Plane) -> None:
    assert plane(token=None).get("/api/runs", headers=bearer("whatever")).status_code == 200
    assert plane(token=None, **REMOTE).get("/api/runs", headers=bearer("")).status_code == 403
    assert plane(token=None, **REMOTE).get("/api/runs").status_code == 401


def test_a_name_that_points_here_is_not_this_machine(plane: Plane) -> None:
    """DNS rebinding: the page's own host name resolves to 127.0.0.1."""
    assert plane(base_url="http://evil.example:8000").get("/api/runs").status_code == 401


def test_a_proxy_in_front_is_not_this_machine(plane: Plane) -> None:
    assert plane().get("/api/runs", headers={"X-Forwarded-For": "127.0.0.1"}).status_code == 401


@pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}])
@pytest.mark.parametrize("key", [{}, basic(TOKEN)])
def test_a_page_of_another_site_changes_nothing(
    plane: Plane, headers: dict[str, str], key: dict[str, str]
) -> None:
    http = plane()
    assert http.post("/api/runs/r1/cancel", headers=headers | key).status_code == 403
    assert http.get("/api/runs", headers=headers | key).status_code == 200, "reading is harmless: no CORS"


def test_our_own_page_may_act(plane: Plane) -> None:
    found = plane().post("/api/runs/none/cancel", headers={"Origin": "http://127.0.0.1:8000"})
    assert found.status_code == 404


def test_a_browser_is_asked_for_the_key(plane: Plane) -> None:
    http = plane(**REMOTE)
    refused = http.get("/", headers={"Accept": "text/html"})
    assert (refused.status_code, refused.headers["www-authenticate"][:5]) == (401, "Basic")
    assert http.get("/", headers=basic(TOKEN)).status_code == 200
    assert http.get("/", headers=basic("wrong")).status_code == 403
    assert http.get("/", headers={"Authorization": "Basic !!"}).status_code == 403


def test_a_job_has_a_key_of_its_own(plane: Plane, store: Any) -> None:
    store["runs"].insert_one({"_id": "r1", "status": "RUNNING"})
    expected = hmac.new(TOKEN.encode(), b"r1", hashlib.sha256).hexdigest()
    assert job_token(TOKEN, "r1") == expected
    http = plane(**REMOTE)
    metrics = {"step": 1, "loss": 0.5}
    assert http.post("/api/training/jobs/r1/metrics", json=metrics, headers=bearer(expected)).status_code == 200
    assert http.post("/api/training/jobs/r2/metrics", json=metrics, headers=bearer(expected)).status_code == 403
    assert http.post("/api/training/jobs/r1/metrics", json=metrics).status_code == 401
    assert http.get("/api/runs", headers=bearer(expected)).status_code == 403, "and it opens nothing else"


def test_no_answer_shows_the_key(plane: Plane) -> None:
    http = plane(**REMOTE)
    for answer in (http.get("/api/runs"), http.post("/api/ingest/event", json=event("e"), headers=JSON)):
        assert TOKEN not in answer.text + str(answer.headers)
