"""Ingest over HTTP, row by row of the contract's table, on a real database."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pymongo.errors import AutoReconnect

from pod_worker.control.events.projector import ProjectionTicket
from pod_worker.control.events.replay import rebuild
from pod_worker.control.ingest.decode import LINE_LIMIT_BYTES
from pod_worker.control.ingest.service import SEQ_JUMP
from pod_worker.control.web.body import BODY_LIMIT_BYTES
from pod_worker.core.clock import ManualClock
from pod_worker.store.mongo import connect
from pod_worker.store.views.metric_series import MetricSeries
from tests.control.conftest import Plane
from tests.control.lines import JSON, NDJSON, SEED_BATCH, SEED_HEARTBEAT, event, ndjson
from tests.store.commands import Commands, watched

CLOUDEVENT = {"Content-Type": "application/cloudevents+json"}


def post(http: TestClient, *events: Any, **headers: str) -> Any:
    """The answer, once the views tell of it too."""
    answer = http.post("/api/ingest/events", content=ndjson(*events), headers=NDJSON | headers)
    http.app.state.ingest.projector.wait_until_projected(seconds=120)  # type: ignore[attr-defined]
    return answer


def counts(answer: Any) -> tuple[int, int, int, int]:
    found = answer.json()
    return found["accepted"], found["duplicates"], found["fenced"], found["invalid"]


# ── the seed guide's own examples ───────────────────────────────────────────────────────────────────────────


def test_the_guides_single_event(http: TestClient) -> None:
    answer = http.post("/api/ingest/event", content=SEED_HEARTBEAT, headers=CLOUDEVENT)
    assert (answer.status_code, answer.json()) == (201, {"event_id": "test-123"})
    again = http.post("/api/ingest/event", content=SEED_HEARTBEAT, headers=CLOUDEVENT)
    assert (again.status_code, again.json()) == (201, {"event_id": "test-123", "status": "duplicate"})


def test_the_guides_batch(http: TestClient) -> None:
    answer = http.post("/api/ingest/events", content=SEED_BATCH, headers=NDJSON)
    assert answer.status_code == 202
    assert counts(answer) == (2, 0, 0, 0)
    assert counts(http.post("/api/ingest/events", content=SEED_BATCH, headers=NDJSON)) == (0, 2, 0, 0)


def test_both_routes_are_described_and_take_posts_only(http: TestClient) -> None:
    described = http.get("/openapi.json").json()["paths"]
    for path, status in (("/api/ingest/event", "201"), ("/api/ingest/events", "202")):
        assert status in described[path]["post"]["responses"]
        refused = http.get(path)
        assert (refused.status_code, refused.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("path", ["/api/ingest/event", "/api/ingest/events"])
def test_both_routes_ask_for_the_key(http: TestClient, path: str) -> None:
    wrong = NDJSON | {"Authorization": "Bearer wrong"}
    assert http.post(path, content=SEED_HEARTBEAT, headers=wrong).status_code == 403


# ── one ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_one_event_is_stored_once(http: TestClient, store: Any) -> None:
    first = http.post("/api/ingest/event", json=event("e1"), headers=JSON)
    assert (first.status_code, first.json()) == (201, {"event_id": "e1"})
    again = http.post("/api/ingest/event", json=event("e1"), headers=JSON)
    assert again.json() == {"event_id": "e1", "status": "duplicate"}
    assert store["events"].count_documents({}) == 1


def test_binary_mode(http: TestClient, store: Any) -> None:
    headers = JSON | {
        "ce-specversion": "1.0",
        "ce-id": "b1",
        "ce-source": "curl",
        "ce-type": "ai.run.log",
        "ce-subject": "run/r1",
        "ce-time": "2026-01-01T00:00:00Z",
    }
    answer = http.post("/api/ingest/event", json={"run_id": "r1", "message": "hi"}, headers=headers)
    assert (answer.status_code, answer.json()) == (201, {"event_id": "b1"})
    assert store["events"].find_one({"_id": "b1"})["data"]["message"] == "hi"


def test_a_bad_event_is_refused_with_reasons_and_kept(http: TestClient, store: Any) -> None:
    answer = http.post("/api/ingest/event", json=event("e1", "ai.run.failed"), headers=JSON)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    problem = answer.json()
    assert {"type", "title", "status", "detail", "errors", "instance"} <= problem.keys()
    assert (problem["instance"], problem["errors"][0]["code"]) == ("/api/ingest/event", "bad_data")
    assert store["events"].count_documents({}) == 0
    assert store["events_dead"].find_one()["eventId"] == "e1"


# ── many ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_bad_line_is_refused_alone(http: TestClient, store: Any) -> None:
    answer = post(http, event("e1"), b"{nope", b"", event("e2"), event("e3", "com.example"), event("e1"))
    assert answer.status_code == 207
    assert counts(answer) == (2, 1, 0, 2)
    errors = answer.json()["errors"]
    assert [(each["line"], each.get("event_id"), each["code"]) for each in errors] == [
        (2, None, "bad_json"),
        (5, "e3", "unknown_type"),
    ]
    assert {each["_id"] for each in store["events"].find()} == {"e1", "e2"}
    assert store["events_dead"].count_documents({}) == 2


def test_the_same_bad_line_is_one_dead_letter(http: TestClient, store: Any) -> None:
    for _ in range(2):
        post(http, b"{nope")
    assert store["events_dead"].count_documents({}) == 1


def test_a_value_the_database_cannot_hold_fails_its_line_only(http: TestClient, store: Any) -> None:
    unstorable = event("e1", kv={"n": 2**63}), event("e2", kv={"a\0b": 1})
    answer = post(http, *unstorable, event("e3"))
    assert counts(answer) == (1, 0, 0, 2)
    assert {each["code"] for each in answer.json()["errors"]} == {"unstorable"}
    kept = {each["eventId"]: each["line"] for each in store["events_dead"].find()}
    assert json.loads(kept["e1"])["id"] == "e1", "the whole line is kept"


def test_gzip(http: TestClient) -> None:
    body = gzip.compress(ndjson(event("e1"), event("e2")))
    answer = http.post("/api/ingest/events", content=body, headers=NDJSON | {"Content-Encoding": "gzip"})
    assert counts(answer) == (2, 0, 0, 0)


def test_a_cloudevents_batch(http: TestClient) -> None:
    headers = {"Content-Type": "application/cloudevents-batch+json"}
    body = json.dumps([event("e1"), {"no": "event"}])
    answer = http.post("/api/ingest/events", content=body, headers=headers)
    assert counts(answer) == (1, 0, 0, 1)
    assert answer.json()["errors"][0]["line"] == 2
    assert http.post("/api/ingest/events", content="{}", headers=headers).status_code == 422


def test_an_empty_batch_is_nothing(http: TestClient) -> None:
    answer = http.post("/api/ingest/events", content=b"\n\n", headers=NDJSON)
    assert (answer.status_code, counts(answer)) == (202, (0, 0, 0, 0))


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"x" * (BODY_LIMIT_BYTES + 1), {}, 413),
        (gzip.compress(b"\0" * (BODY_LIMIT_BYTES + 1), mtime=0), {"Content-Encoding": "gzip"}, 413),
        (b"x" * (LINE_LIMIT_BYTES + 1), {}, 413),
        (b"x\n" * 10_001, {}, 413),
        (b"not gzip", {"Content-Encoding": "gzip"}, 400),
        (b"x", {"Content-Encoding": "br"}, 415),
        (b"x", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
        (b"x", {"Content-Type": "application/x-ndjson; charset=latin-1"}, 415),
    ],
)
def test_what_is_refused_whole(
    http: TestClient, store: Any, body: bytes, headers: dict[str, str], status: int
) -> None:
    answer = http.post("/api/ingest/events", content=body, headers=NDJSON | headers)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert store["events"].count_documents({}) == 0


def test_invalid_utf8_names_the_line(http: TestClient) -> None:
    answer = post(http, event("e1"), b'{"id":"\xff"}')
    assert counts(answer) == (1, 0, 0, 1)
    assert "UTF-8" in answer.json()["errors"][0]["error"]


# ── fencing ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_another_attempt_is_fenced_and_its_history_kept(http: TestClient, store: Any) -> None:
    store["runs"].insert_one({"_id": "r1", "status": "RUNNING", "attempt": 2})
    earlier = event("e1", "ai.run.stage_completed", attempt=1, seq=9, stage="Stage_1", duration_s=4.0)
    later = event("e2", "ai.run.stage_started", attempt=3, seq=1, stage="Stage_2")
    current = event("e3", "ai.run.stage_started", attempt=2, seq=1, stage="Stage_3")
    assert counts(post(http, earlier, later, current)) == (1, 0, 2, 0)
    assert store["events"].count_documents({}) == 3, "fenced events are stored"
    rows = {each["name"]: each["status"] for each in store["stages"].find()}
    assert rows == {"Stage_1": "COMPLETED", "Stage_3": "RUNNING"}, "an attempt that has not begun has no events"
    single = http.post("/api/ingest/event", json=event("e4", attempt=1), headers=JSON)
    assert single.json() == {"event_id": "e4", "status": "fenced"}


def test_an_unknown_run_is_stored_and_projects_nothing(http: TestClient, store: Any) -> None:
    assert counts(post(http, event("e1", "ai.run.stage_started", stage="Stage_1"))) == (1, 0, 0, 0)
    assert store["stages"].count_documents({}) == 0
    assert store["runs"].count_documents({}) == 0


# ── the database goes away ──────────────────────────────────────────────────────────────────────────────────


def test_without_the_database_nothing_is_acknowledged(plane: Plane) -> None:
    away: Any = connect("mongodb://127.0.0.1:1/x", timeout_seconds=0.05)
    http = plane(database=away)
    answer = post(http, event("e1"))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert answer.headers["content-type"] == "application/problem+json"
    assert http.get("/healthz").status_code == 200, "alive, all the same"
    assert http.get("/readyz").status_code == 503
    away.client.close()


def test_a_crash_between_storing_and_projecting_heals(
    http: TestClient, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store["runs"].insert_one({"_id": "r1", "status": "RUNNING"})
    started = event("e1", "ai.run.stage_started", stage="Stage_1")

    @asynccontextmanager
    async def crash_afterwards(*_: Any) -> AsyncIterator[ProjectionTicket]:
        yield ProjectionTicket(frozenset(), 1, 1)
        raise AutoReconnect("the connection broke")

    with monkeypatch.context() as broken:
        broken.setattr("pod_worker.control.events.projector.Projector.reserve", crash_afterwards)
        assert post(http, started).status_code == 503
    assert store["events"].count_documents({}) == 1
    assert store["stages"].count_documents({}) == 0
    assert counts(post(http, started)) == (0, 1, 0, 0)
    assert store["stages"].find_one()["status"] == "RUNNING"


def test_an_id_of_another_runs_event_is_refused_and_not_taken_for_a_repeat(http: TestClient, store: Any) -> None:
    store["runs"].insert_many([{"_id": name, "status": "RUNNING", "attempt": 1} for name in ("r1", "r2")])
    first = http.post("/api/ingest/events", content=ndjson(event("same")), headers=NDJSON)
    assert first.json()["accepted"] == 1
    lines = ndjson(event("same", run="r2"), event("other", run="r2"))
    answer = http.post("/api/ingest/events", content=lines, headers=NDJSON).json()
    assert (answer["accepted"], answer["duplicates"]) == (1, 0)
    assert [(each["line"], each["code"]) for each in answer["errors"]] == [(1, "id_taken")]
    assert store["events"].find_one({"_id": "same"})["runId"] == "r1"
    assert store["events_dead"].find_one()["code"] == "id_taken"


def test_a_repeat_projects_what_was_stored_not_what_was_sent(http: TestClient, store: Any) -> None:
    """An id that comes again with other content is the first event, as the log and a replay see it."""
    store["runs"].insert_one({"_id": "r1", "status": "RUNNING"})
    post(http, event("e1", "ai.run.stage_progress", stage="Stage_1", progress=0.25))
    assert counts(post(http, event("e1", "ai.run.stage_progress", stage="Stage_1", progress=0.75))) == (0, 1, 0, 0)
    assert store["stages"].find_one()["progress"] == 0.25


def test_one_views_trouble_does_not_stop_the_sender(
    http: TestClient, store: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A run document that cannot take a write (here: a field of a foreign shape) fails alone, and is counted."""
    store["runs"].insert_many([{"_id": "r1", "metrics": 5}, {"_id": "r2"}])
    found = [event(f"e{n}", "ai.run.stage_metric", run=f"r{n}", stage="s", name="n", value=n) for n in (1, 2)]
    assert counts(post(http, *found)) == (2, 0, 0, 0)
    assert store["runs"].find_one({"_id": "r2"})["metrics"] == {"n": 2.0}
    assert "pod_worker_projection_failures_total 1.0" in http.get("/metrics").text
    assert "not projected" in caplog.text


# ── what is kept, and for how long ──────────────────────────────────────────────────────────────────────────


def test_heartbeats_are_not_kept(http: TestClient, store: Any) -> None:
    store["runs"].insert_one({"_id": "r1", "status": "RUNNING"})
    beat = event("h1", "ai.run.heartbeat", gpu_util=0.5, rss_gb=1.5)
    assert counts(post(http, beat)) == (1, 0, 0, 0)
    assert store["events"].count_documents({}) == 0
    run = store["runs"].find_one({"_id": "r1"})
    assert (run["heartbeat"]["gpuUtil"], run["lastHeartbeat"].year) == (0.5, 2026)
    assert [each.name for each in MetricSeries(store).read("r1")] == ["gpu_util", "rss_gb"]
    assert counts(post(http, beat)) == (0, 1, 0, 0)


def test_a_heartbeat_from_the_future_is_from_now(http: TestClient, store: Any) -> None:
    store["runs"].insert_one({"_id": "r1", "status": "RUNNING"})
    post(http, event("h1", "ai.run.heartbeat", time="2999-01-01T00:00:00Z"))
    assert store["runs"].find_one({"_id": "r1"})["lastHeartbeat"].year < 2999


def test_an_event_from_the_far_future_is_from_now(http: TestClient, store: Any) -> None:
    """Without an attempt, time orders: one event dated 9999 froze the view for the rest of the attempt."""
    store["runs"].insert_one({"_id": "r1", "status": "RUNNING"})
    post(http, event("e1", "ai.run.stage_progress", time="9999-12-31T23:59:59Z", stage="s", progress=0.1))
    soon = (datetime.now(UTC) + timedelta(seconds=30)).isoformat()
    post(http, event("e2", "ai.run.stage_progress", time=soon, stage="s", progress=0.9))
    assert store["stages"].find_one()["progress"] == 0.9
    assert store["events"].find_one({"_id": "e1"})["time"].year < 9999
    rebuild(store, "r1")
    assert store["stages"].find_one()["progress"] == 0.9, "a replay comes to the same"


def test_a_seq_far_beyond_the_last_one_is_refused(http: TestClient, store: Any) -> None:
    """It would win over every later event of its attempt."""
    store["runs"].insert_one({"_id": "r1", "status": "RUNNING", "attempt": 1})
    far, near = 999_999_999_999, SEQ_JUMP + 1
    progress = {"type": "ai.run.stage_progress", "stage": "s"}
    answer = post(http, event("e1", seq=far, attempt=1, progress=0.1, **progress), event("e2", seq=1, attempt=1))
    assert answer.status_code == 207
    assert [(each["line"], each["code"]) for each in answer.json()["errors"]] == [(1, "seq_jump")]
    assert counts(post(http, event("e3", seq=2, attempt=1, progress=0.9, **progress)))[0] == 1
    assert store["stages"].find_one()["progress"] == 0.9
    assert counts(post(http, event("e4", seq=near, attempt=1, progress=0.95, **progress)))[0] == 1
    assert counts(post(http, event("e5", seq=near + SEQ_JUMP, attempt=1)))[0] == 1, "a long attempt goes on"
    assert counts(post(http, event("e6", seq=far)))[0] == 1, "without an attempt seq orders nothing"


def test_a_run_whose_attempt_is_no_number_stops_no_batch(http: TestClient, store: Any) -> None:
    store["runs"].insert_many(
        [{"_id": f"r{n}", "status": "RUNNING", "attempt": value}
         for n, value in enumerate([float("nan"), float("inf"), "three", {}, 2.5, -1])]
    )  # fmt: skip
    for attempt in ({}, {"attempt": 1}):
        lines = [event(f"{n}{len(attempt)}", run=f"r{n}", **attempt) for n in range(6)]
        answer = post(http, *lines, event(f"good{len(attempt)}", run="r9"))
        assert answer.status_code == 202, answer.text
    for verb in ("cancel", "reset"):
        for n in range(6):
            assert http.post(f"/api/runs/r{n}/{verb}").status_code < 500, (verb, n)


def test_samples_expire_and_lifecycle_is_kept(http: TestClient, store: Any) -> None:
    """Lifecycle events stay with their run, which a prune deletes. Those that no prune can find expire."""
    store["runs"].insert_one({"_id": "r1", "status": "RUNNING", "attempt": 1})
    post(
        http,
        event("log"),
        event("lifecycle", "ai.run.stage_started", stage="s"),
        event("unknown type", "ai.new.thing"),
        event("unknown run", "ai.run.stage_started", run="absent", stage="s"),
    )
    expiring = {each["_id"] for each in store["events"].find({"expireAt": {"$type": "date"}})}
    assert expiring == {"log", "unknown type", "unknown run"}


def test_unknown_types_of_ours_are_stored_and_counted(http: TestClient, store: Any) -> None:
    assert counts(post(http, event("e1", "ai.node.code_generated"))) == (1, 0, 0, 0)
    assert store["events"].count_documents({"type": "ai.node.code_generated"}) == 1
    figures = http.get("/metrics").text
    assert 'pod_worker_events_unknown_type_total{type="ai.node.code_generated"} 1.0' in figures


# ── the price of a batch ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("size", [2, 200])
def test_round_trips_do_not_grow_with_the_batch(plane: Plane, mongodb_url: str, store: Any, size: int) -> None:
    store["runs"].insert_one({"_id": "r1", "status": "RUNNING", "attempt": 1})
    seen = Commands()
    with watched(mongodb_url, seen) as database:
        http = plane(database=database, clock=ManualClock())
        post(http, event("warm", attempt=1))
        seen.clear()
        batch = [
            event(
                f"e{n}", "ai.run.stage_metric", attempt=1, seq=n + 1, stage="s", name=f"m{n % 3}", value=n, step=n
            )
            for n in range(size)
        ]
        batch += [event("p", "ai.run.stage_progress", attempt=1, seq=size + 1, stage="s", progress=0.5)]
        assert counts(post(http, *batch)) == (size + 1, 0, 0, 0)
        assert seen.names()[:1] == ["insert"], "and no more before the answer"
        assert sorted(seen.names()[1:]) == ["insert", "update", "update"], "these together, for the views"


def test_a_majority_has_it_before_it_is_acknowledged(plane: Plane, mongodb_url: str) -> None:
    seen = Commands()
    with watched(mongodb_url, seen) as database:
        assert counts(post(plane(database=database), event("e1"), b"{}")) == (1, 0, 0, 1)
    concerns = {each["insert"]: each["writeConcern"]["w"] for each in seen.seen if "insert" in each}
    assert concerns == {"events": "majority", "events_dead": "majority"}
