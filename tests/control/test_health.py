"""Alive, ready, and what Prometheus reads."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi.testclient import TestClient

from pod_worker.store.mongo import connect
from tests.control.conftest import Plane
from tests.control.lines import NDJSON, event, ndjson


def test_ready_names_the_database(http: TestClient, store: Any) -> None:
    assert http.get("/healthz").json() == {"ok": True}
    assert http.get("/readyz").json() == {"ok": True, "database": store.name}
    health = http.get("/api/health").json()
    assert (health["ok"], health["database"], health["ts"][-1]) == (True, store.name, "Z")


def test_ready_names_the_instance_where_one_was_given(plane: Plane) -> None:
    assert plane(instance="i-1").get("/readyz").json()["instance"] == "i-1"


def test_figures(http: TestClient, store: Any) -> None:
    now = datetime.now(UTC)
    store["runs"].insert_many(
        [
            {"_id": "q", "status": "QUEUED", "queue": "training", "queuedAt": now - timedelta(minutes=5)},
            {"_id": "r1", "status": "RUNNING", "queue": "training", "attempt": 2, "leaseExpiresAt": now},
            {"_id": "r2", "status": "RUNNING", "queue": "training", "leaseExpiresAt": now + timedelta(hours=1)},
        ]
    )
    lines = ndjson(event("e1"), event("e1"), event("e2", attempt=1), b"{", event("e3", "ai.new"))
    http.post("/api/ingest/events", content=lines, headers=NDJSON)
    figures = dict(
        line.rsplit(" ", 1) for line in http.get("/metrics").text.splitlines() if not line.startswith("#")
    )
    assert figures['pod_worker_events_total{type="ai.run.log",verdict="accepted"}'] == "1.0"
    assert figures['pod_worker_events_total{type="ai.run.log",verdict="duplicate"}'] == "1.0"
    assert figures['pod_worker_events_total{type="ai.run.log",verdict="fenced"}'] == "1.0"
    assert figures['pod_worker_events_total{type="",verdict="invalid"}'] == "1.0"
    assert figures['pod_worker_events_refused_total{code="bad_json"}'] == "1.0"
    assert figures['pod_worker_events_unknown_type_total{type="ai.new"}'] == "1.0"
    assert figures["pod_worker_ingest_batch_seconds_count"] == "1.0"
    assert figures['pod_worker_runs{queue="training",status="RUNNING"}'] == "2.0"
    assert float(figures['pod_worker_oldest_queued_seconds{queue="training"}']) >= 299
    assert (figures["pod_worker_leases_live"], figures["pod_worker_leases_expiring"]) == ("2.0", "1.0")
    assert figures["pod_worker_database_up"] == "1.0"


def test_foreign_types_do_not_flood_the_labels(http: TestClient) -> None:
    lines = ndjson(*(event(f"e{n}", f"ai.foreign.{n}") for n in range(150)))
    http.post("/api/ingest/events", content=lines, headers=NDJSON)
    text = http.get("/metrics").text
    assert text.count("pod_worker_events_unknown_type_total{") == 101
    assert 'pod_worker_events_unknown_type_total{type="other"} 50.0' in text


def test_figures_without_the_database(plane: Plane) -> None:
    away: Any = connect("mongodb://127.0.0.1:1/x", timeout_seconds=0.05)
    text = plane(database=away).get("/metrics").text
    assert "pod_worker_database_up 0.0" in text
    away.client.close()
