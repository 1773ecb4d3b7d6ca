"""Metrics from a training loop without an emitter: the same projection, and the way to say stop."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from pod_worker.control.events.replay import rebuild
from pod_worker.store.views.metric_series import MetricSeries

URL = "/api/training/jobs/r1/metrics"


@pytest.fixture(autouse=True)
def run(store: Any) -> None:
    store["runs"].insert_one({"_id": "r1", "status": "RUNNING", "attempt": 1})


def test_figures_become_series_and_progress(http: TestClient, store: Any) -> None:
    figures = {
        "step": 10,
        "epoch": 0.5,
        "loss": 0.25,
        "eval_loss": 0.5,
        "progress": 0.1,
        "remaining_seconds": 90.0,
    }
    answer = http.post(URL, json=figures)
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    run = store["runs"].find_one()
    assert run["metrics"] == {"loss": 0.25, "eval_loss": 0.5}
    assert (run["currentStage"]["progress"], run["currentStage"]["etaS"]) == (0.1, 90.0)
    series = http.get("/api/runs/r1/metrics?name=loss").json()["series"]
    assert [(each["stage"], each["points"][0][:2]) for each in series] == [("training", [10, 0.25])]


def test_a_repeat_is_a_duplicate_and_a_replay_brings_it_back(http: TestClient, store: Any) -> None:
    for _ in range(2):
        http.post(URL, json={"step": 1, "loss": 0.5, "grad_norm": 0.0})
    assert store["events"].count_documents({"type": "ai.run.stage_metric"}) == 2
    store["metrics"].delete_many({})
    assert rebuild(store, "r1") == 2
    assert [each.name for each in MetricSeries(store).read("r1")] == ["grad_norm", "loss"]


def test_a_canceled_run_is_told_to_stop(http: TestClient, store: Any) -> None:
    assert "command" not in http.post(URL, json={"step": 1, "loss": 1}).json()
    http.post("/api/runs/r1/cancel")
    assert http.post(URL, json={"step": 2, "loss": 1}).json() == {"status": "ok", "command": "stop"}


@pytest.mark.parametrize(
    "body", ['{"loss": 1}', '{"step": 1, "loss": NaN}', '{"step": 1, "los": 1}', "[]", '{"step": -1}']
)
def test_bad_figures_are_refused(http: TestClient, body: str) -> None:
    answer = http.post(URL, content=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_metrics")


def test_no_such_run(http: TestClient) -> None:
    assert http.post("/api/training/jobs/none/metrics", json={"step": 1, "loss": 1}).status_code == 404
