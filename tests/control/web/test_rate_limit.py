"""The bucket: a burst, then the rate, for each client alone."""

from __future__ import annotations

from pod_worker.control.web.rate_limit import ClientRateLimit
from pod_worker.core.clock import ManualClock
from tests.control.conftest import Plane
from tests.control.lines import JSON, event


def test_a_burst_then_the_rate(clock: ManualClock) -> None:
    limit = ClientRateLimit(2.0, 3, clock.monotonic)
    assert [limit.wait_seconds("a") for _ in range(3)] == [0, 0, 0]
    assert limit.wait_seconds("a") == 0.5
    assert limit.wait_seconds("b") == 0, "another client has a bucket of its own"
    clock.advance(0.5)
    assert limit.wait_seconds("a") == 0
    assert limit.wait_seconds("a") > 0
    clock.advance(3600)
    assert [limit.wait_seconds("a") for _ in range(4)] == [0, 0, 0, 0.5], "a bucket holds a burst, not an hour"


def test_too_fast_is_told_how_long_to_wait(plane: Plane, clock: ManualClock) -> None:
    http = plane(requests_per_second=0.1, burst=1, clock=clock)
    assert http.post("/api/ingest/event", json=event("e1"), headers=JSON).status_code == 201
    refused = http.post("/api/ingest/event", json=event("e2"), headers=JSON)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "10")
    assert refused.headers["content-type"] == "application/problem+json"
    assert http.get("/api/runs").status_code == 200, "reading is not limited"
