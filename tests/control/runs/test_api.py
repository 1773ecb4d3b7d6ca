"""The read API and the two verbs, as the page and other programs use them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any

import pytest
from bson import Decimal128, ObjectId
from fastapi.testclient import TestClient

from tests.control.lines import NDJSON, event, ndjson

T0 = datetime(2026, 1, 1, tzinfo=UTC)


def ids(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [each["_id"] for each in answer.json()["items"]]


@pytest.fixture
def runs(store: Any) -> None:
    """r0 … r9, r9 the newest; pairs share a moment, as bulk-enqueued runs do."""
    store["runs"].insert_many(
        {
            "_id": f"r{n}",
            "status": "QUEUED" if n % 2 else "RUNNING",
            "pipeline": "training" if n < 5 else "synthetic",
            "queue": "training",
            "createdAt": T0 + timedelta(seconds=n // 2),
            "queuedAt": T0,
        }
        for n in range(10)
    )


@pytest.mark.usefixtures("runs")
def test_newest_first_and_filters(http: TestClient, store: Any) -> None:
    assert ids(http.get("/api/runs")) == [f"r{n}" for n in range(9, -1, -1)]
    assert ids(http.get("/api/runs?status=queued&pipeline=training")) == ["r3", "r1"]
    assert len(ids(http.get("/api/runs?status=QUEUED,RUNNING"))) == 10
    store["runs"].update_one({"_id": "r4"}, {"$set": {"hypothesisId": "h1"}})
    assert ids(http.get("/api/runs?hypothesisId=h1")) == ["r4"]


@pytest.mark.usefixtures("runs")
def test_hidden_runs_are_not_listed(http: TestClient, store: Any) -> None:
    store["runs"].update_one({"_id": "r9"}, {"$set": {"hidden": True}})
    assert "r9" not in ids(http.get("/api/runs"))
    assert http.get("/api/runs").json()["total"] == 9
    assert "r9" in ids(http.get("/api/runs?hidden=true"))


@pytest.mark.usefixtures("runs")
def test_pages_and_cursors_cover_every_run_once(http: TestClient, store: Any) -> None:
    store["runs"].insert_one({"_id": "undated"})
    by_page = [ids(http.get(f"/api/runs?pageSize=4&page={page}")) for page in (1, 2, 3)]
    assert [*chain(*by_page)] == [*(f"r{n}" for n in range(9, -1, -1)), "undated"]
    seen: list[str] = []
    cursor = ""
    while cursor is not None:
        answer = http.get("/api/runs", params={"pageSize": 3, "cursor": cursor})
        seen += ids(answer)
        assert answer.json()["total"] == 11
        cursor = answer.json()["nextCursor"]
    assert seen == [*chain(*by_page)]


@pytest.mark.parametrize(
    "query", ["status=LOST", "page=0", "pageSize=101", "pageSize=x", "cursor=zzz", "cursor=W10="]
)
def test_bad_queries_say_what_is_wrong(http: TestClient, query: str) -> None:
    answer = http.get(f"/api/runs?{query}")
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert answer.json()["detail"]


def test_one_invalid_document_never_breaks_a_list(http: TestClient, store: Any) -> None:
    store["runs"].insert_many(
        [
            {"_id": ObjectId(), "status": 7, "createdAt": "yesterday", "metrics": [1], "currentStage": "x"},
            {
                "_id": "n",
                "metrics": {"loss": float("nan")},
                "cost": Decimal128("1.5"),
                "blob": b"\xff",
                "pod": None,
            },
            {"_id": "ok", "status": "STARTING", "createdAt": T0, "claimedBy": None},
        ]
    )
    listed = http.get("/api/runs").json()["items"]
    assert len(listed) == 3
    assert next(each for each in listed if each["_id"] == "ok")["status"] == "SCHEDULED"
    run = http.get("/api/runs/n").json()["run"]
    assert (run["metrics"], run["cost"], run["blob"]) == ({"loss": None}, "1.5", "/w==")


def test_unreadable_bytes_and_dates_are_shown(http: TestClient, store: Any) -> None:
    """Documents that other drivers could write: broken UTF-8, a date after the year 9999."""
    from bson import encode
    from bson.datetime_ms import DatetimeMS
    from bson.raw_bson import RawBSONDocument

    document = encode({"_id": "unreadable", "status": "QUEUED", "title": "xxxx", "queuedAt": DatetimeMS(10**15)})
    store["runs"].insert_one(RawBSONDocument(document.replace(b"xxxx", b"\xff\xfexx")))
    assert http.get("/api/runs/unreadable").status_code == 200
    assert ids(http.get("/api/runs")) == ["unreadable"]


def test_detail_has_all_that_belongs_to_a_run(http: TestClient, store: Any) -> None:
    store["hypotheses"].insert_one({"_id": "h1", "title": "Bigger is better"})
    store["runs"].insert_one(
        {"_id": "r1", "status": "FAILED", "hypothesisId": "h1", "errorCode": "CUDA_OOM", "leaseToken": "secret",
         "settledToken": "secret", "metrics": {"eval%2Eloss": 1.0}}
    )  # fmt: skip
    sent = [
        event("e1", "ai.run.stage_started", stage="Stage_2", time="2026-01-01T00:00:02Z"),
        event("e2", "ai.run.stage_started", stage="Stage_1", time="2026-01-01T00:00:01Z"),
        event("e3", "ai.artifact.registered", key="k", bytes=1, content_type="a/b", kind="data"),
        event("e4", "ai.validation.auto_completed", verdict="pass"),
    ]
    http.post("/api/ingest/events", content=ndjson(*sent), headers=NDJSON)
    answer = http.get("/api/runs/r1")
    found = answer.json()
    assert [(each["name"], each["title"]) for each in found["stages"]] == [
        ("Stage_1", "preliminary investigation"),
        ("Stage_2", "baseline tuning"),
    ]
    assert [each["key"] for each in found["artifacts"]] == ["k"]
    assert [each["verdict"] for each in found["validations"]] == ["pass"]
    assert found["hypothesis"]["title"] == "Bigger is better"
    assert "batch_size" in found["hint"]
    assert found["run"]["metrics"] == {"eval.loss": 1.0}
    assert "secret" not in answer.text, "lease tokens are not shown"
    assert '"v"' not in answer.text
    assert http.get("/api/runs/none").status_code == 404


# ── events and logs ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def events(http: TestClient) -> None:
    """Ten log lines of rising level among forty metrics, and one start."""
    levels = ("debug", "info", "warning", "error", "info")
    lines = [event(f"l{n}", level=levels[n % 5], message=f"line {n}") for n in range(10)]
    metrics = [event(f"m{n}", "ai.run.stage_metric", stage="s", name="loss", value=n, step=n) for n in range(40)]
    start = event("s", "ai.run.started", pod_id="p")
    http.post("/api/ingest/events", content=ndjson(start, *metrics, *lines), headers=NDJSON)


@pytest.mark.usefixtures("events")
def test_events_are_filtered_before_they_are_paged(http: TestClient) -> None:
    assert ids(http.get("/api/runs/r1/events?type=ai.run.started&limit=1")) == ["s"]
    assert ids(http.get("/api/runs/r1/events?level=error&limit=2")) == ["l8", "l3"]
    assert ids(http.get("/api/runs/r1/events?type=ai.run.started,ai.run.log&limit=3")) == ["l9", "l8", "l7"]
    assert ids(http.get("/api/runs/r1/events?level=info&order=asc&limit=2")) == ["l1", "l2"]


@pytest.mark.usefixtures("events")
@pytest.mark.parametrize("order", ["asc", "desc"])
def test_a_cursor_walks_the_whole_log(http: TestClient, order: str) -> None:
    seen: list[str] = []
    cursor: dict[str, Any] = {}
    while True:
        answer = http.get("/api/runs/r1/events", params={"limit": 7, "order": order} | cursor)
        seen += ids(answer)
        if answer.json()["nextCursor"] is None:
            break
        cursor = {"cursor": answer.json()["nextCursor"]}
    expected = ["s", *(f"m{n}" for n in range(40)), *(f"l{n}" for n in range(10))]
    assert seen == (expected if order == "asc" else expected[::-1])


@pytest.mark.usefixtures("events")
def test_logs_are_a_tail_that_can_be_followed(http: TestClient) -> None:
    tail = http.get("/api/runs/r1/logs?tail=3")
    assert ids(tail) == ["l7", "l8", "l9"]
    assert ids(http.get("/api/runs/r1/logs?level=warn")) == ["l2", "l3", "l7", "l8"]
    cursor = tail.json()["nextCursor"]
    assert ids(http.get(f"/api/runs/r1/logs?cursor={cursor}")) == []
    http.post("/api/ingest/events", content=ndjson(event("l10")), headers=NDJSON)
    assert ids(http.get(f"/api/runs/r1/logs?cursor={cursor}")) == ["l10"]


@pytest.mark.usefixtures("events")
def test_since_is_a_moment_of_arrival(http: TestClient) -> None:
    assert ids(http.get("/api/runs/r1/events?since=2099-01-01T00:00:00Z")) == []
    assert len(ids(http.get("/api/runs/r1/events?since=2026-01-01T00:00:00Z&limit=1000"))) == 51
    assert http.get("/api/runs/r1/events?level=loud").status_code == 422
    assert http.get("/api/runs/r1/events?limit=0").status_code == 422


def test_series_are_thinned_but_keep_their_ends(http: TestClient, store: Any) -> None:
    store["runs"].insert_one({"_id": "r1", "attempt": 2})
    points = [
        event(f"m{n}", "ai.run.stage_metric", stage="s", name="loss", value=n * n, step=n) for n in range(299)
    ]
    last = {"stage": "s", "name": "loss", "value": 89401, "step": 299}
    points.append(event("m299", "ai.run.stage_metric", seq=9, attempt=2, **last))
    http.post("/api/ingest/events", content=ndjson(*points), headers=NDJSON)
    series = http.get("/api/runs/r1/metrics?points=20").json()["series"]
    assert [(each["name"], each["total"], len(each["points"])) for each in series] == [("loss", 300, 20)]
    assert (series[0]["points"][0][:2], series[0]["points"][-1][:2]) == ([0, 0.0], [299, 89401.0])
    assert series[0]["points"][-1][3] == 2  # its attempt
    assert http.get("/api/runs/r1/metrics?name=other").json() == {"series": []}


# ── what waits, and the verbs ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("runs")
def test_stats(http: TestClient) -> None:
    stats = http.get("/api/stats").json()
    assert stats["byStatus"]["QUEUED"] == 5
    assert stats["byStatus"]["FAILED"] == 0
    assert stats["byQueue"] == {"training": {"QUEUED": 5, "RUNNING": 5}}
    assert stats["oldestQueuedSeconds"]["training"] > 0


def test_cancel_and_reset(http: TestClient, store: Any) -> None:
    store["runs"].insert_many(
        [
            {"_id": "waits", "status": "QUEUED", "attempt": 0},
            {"_id": "runs", "status": "RUNNING", "attempt": 1, "leaseToken": "t",
             "leaseExpiresAt": datetime.now(UTC) + timedelta(hours=1)},
            {"_id": "done", "status": "COMPLETED", "attempt": 1},
        ]
    )  # fmt: skip
    assert http.post("/api/runs/waits/cancel").json()["status"] == "CANCELED"
    asked = http.post("/api/runs/runs/cancel", json={"by": "me", "reason": "wrong data"})
    assert (asked.status_code, asked.json()["verdict"]) == (202, "requested")
    assert store["runs"].find_one({"_id": "runs"})["cancelRequestedBy"] == "me"
    assert http.post("/api/runs/done/cancel").status_code == 409
    assert http.post("/api/runs/none/cancel").status_code == 404
    assert http.post("/api/runs/runs/reset").json()["code"] == "live_lease"
    assert http.post("/api/runs/runs/reset", json={"force": True}).json()["status"] == "QUEUED"
    assert http.post("/api/runs/done/reset").json()["status"] == "QUEUED"
    assert http.post("/api/runs/none/reset").status_code == 404
