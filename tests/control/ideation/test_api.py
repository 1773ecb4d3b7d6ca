"""The same over HTTP: hypotheses, ideation requests and launches."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.ideation_pipelines import register
from tests.store.ideation.conftest import IDEA


@pytest.fixture(autouse=True)
def _pipelines(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)


def post(http: TestClient, path: str, **body: Any) -> Any:
    return http.post(path, json=body)


def test_a_hypothesis_is_created_with_ideation_and_a_launch(http: TestClient, store: Any) -> None:
    answer = post(
        http, "/api/hypotheses", title="Noise", idea="Smoothing helps.", ideate=True, reflections=2, launch=True,
        params={"seed": 3},
    )  # fmt: skip
    assert answer.status_code == 201, answer.text
    made = answer.json()
    run = store["runs"].find_one({"_id": made["ideationId"]})
    assert (run["pipeline"], run["params"]["reflections"]) == ("ideation", 2)
    assert store["hypotheses"].find_one()["launchRunId"] == made["runId"]
    shown = http.get(f"/api/hypotheses/{made['id']}").json()
    assert shown["hypothesis"]["createdBy"] == "api"
    assert [each["_id"] for each in shown["requests"]] == [made["ideationId"]]
    assert [each["_id"] for each in http.get("/api/hypotheses").json()["items"]] == [made["id"]]
    request = http.get(f"/api/ideation/{made['ideationId']}").json()
    assert (request["status"], request["hypothesisId"]) == ("QUEUED", made["id"])
    listed = http.get("/api/ideation", params={"hypothesisId": made["id"]}).json()["items"]
    assert [each["_id"] for each in listed] == [made["ideationId"]]
    assert http.get("/api/ideation", params={"hypothesisId": "other"}).json()["items"] == []


def test_a_repeated_id_stores_and_queues_nothing_twice(http: TestClient, store: Any) -> None:
    body = {"id": "h1", "title": "t", "idea": "x", "ideate": True}
    assert post(http, "/api/hypotheses", **body).json() == post(http, "/api/hypotheses", **body).json()
    again = {"id": "q1", "hypothesisId": "h1"}
    for _ in range(2):
        assert post(http, "/api/ideation", **again).status_code == 201
    assert store["hypotheses"].count_documents({}) == 1
    assert store["runs"].count_documents({}) == 2


def test_an_idea_is_launched_by_its_index(http: TestClient, store: Any) -> None:
    post(http, "/api/hypotheses", id="h1", title="t", idea="x")
    ideas = [IDEA, IDEA | {"Title": "Second"}]
    store["hypotheses"].update_one({"_id": "h1"}, {"$set": {"ideation.ideas": ideas}})
    answer = post(http, "/api/hypotheses/h1/launch", ideaIndex=1, by="ana", id="r1")
    assert answer.json() == {"id": "r1", "status": "QUEUED"}
    assert store["runs"].find_one({"_id": "r1"})["params"]["idea"]["Title"] == "Second"
    assert store["hypotheses"].find_one({"_id": "h1"})["ideaSource"]["by"] == "ana"
    assert post(http, "/api/hypotheses/h1/launch", id="r1").json() == {"id": "r1", "status": "QUEUED"}
    assert store["runs"].count_documents({}) == 1


REFUSED: list[tuple[str, dict[str, Any], int, str]] = [
    ("/api/hypotheses", {"title": "t"}, 422, "idea: Field required"),
    ("/api/hypotheses", {"title": "t", "idea": " "}, 422, "the idea text is empty"),
    ("/api/hypotheses", {"title": "t", "idea": "x", "launch": True}, 422, "an experiment needs an idea"),
    ("/api/hypotheses", {"title": "t", "idea": "x", "ideaJson": {"Title": "y"}}, 422, "'Abstract' is missing"),
    ("/api/hypotheses", {"title": "t", "idea": "x", "ideate": True, "reflections": 11}, 422, "'reflections' is 11"),
    ("/api/hypotheses", {"title": "t", "idea": "x", "id": "a/b"}, 422, "its id contains a slash"),
    (
        "/api/hypotheses",
        {"title": "t", "idea": "x", "ideate": True, "launch": True, "params": {"seed": "x"}}, 422, "'seed' is 'x'",
    ),
    ("/api/ideation", {"hypothesisId": "absent"}, 404, "there is no hypothesis 'absent'"),
    ("/api/hypotheses/absent/launch", {}, 404, "there is no hypothesis 'absent'"),
]  # fmt: skip


def test_a_refusal_names_its_cause_and_stores_nothing(http: TestClient, store: Any) -> None:
    for path, body, status, reason in REFUSED:
        answer = http.post(path, json=body)
        assert answer.status_code == status, body
        assert reason in answer.json()["detail"]
        assert store["hypotheses"].count_documents({}) == store["ideation_requests"].count_documents({}) == 0


def test_what_is_not_there_is_404(http: TestClient) -> None:
    assert http.get("/api/hypotheses/absent").status_code == 404
    assert http.get("/api/ideation/absent").status_code == 404


def test_the_routes_need_the_key(plane: Any) -> None:
    client = plane(open_on_loopback=False)
    assert client.get("/api/hypotheses").status_code == 401
    assert client.post("/api/ideation", json={"hypothesisId": "h"}).status_code == 401
