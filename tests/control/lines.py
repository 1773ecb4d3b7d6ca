"""Events as a foreign or our own emitter would send them."""

from __future__ import annotations

import json
from typing import Any

SEED_HEARTBEAT = """{
    "specversion": "1.0",
    "id": "test-123",
    "source": "test://local",
    "type": "ai.run.heartbeat",
    "subject": "run/test-run-id",
    "time": "2025-10-22T19:00:00Z",
    "datacontenttype": "application/json",
    "data": {"run_id": "test-run-id", "gpu_util": 0.75}
  }"""
SEED_BATCH = (
    '{"specversion":"1.0","id":"test-1","source":"test://local","type":"ai.run.heartbeat","subject":"run/test-run-id"'
    ',"time":"2025-10-22T19:00:00Z","datacontenttype":"application/json","data":{"run_id":"test-run-id"}}\n'
    '{"specversion":"1.0","id":"test-2","source":"test://local","type":"ai.run.heartbeat","subject":"run/test-run-id"'
    ',"time":"2025-10-22T19:00:01Z","datacontenttype":"application/json","data":{"run_id":"test-run-id"}}'
)
NDJSON = {"Content-Type": "application/x-ndjson"}
JSON = {"Content-Type": "application/json"}


def event(
    id: str, type: str = "ai.run.log", run: str = "r1", time: str | None = None, **more: Any
) -> dict[str, Any]:
    """`seq`, `attempt` and other attributes by name; everything else is data."""
    attributes = {name: more.pop(name) for name in ("seq", "attempt", "extensions", "traceparent") if name in more}
    data = {"message": "hello"} if type == "ai.run.log" and "message" not in more else {}
    return {
        "specversion": "1.0",
        "id": id,
        "source": "runpod://pod/p1",
        "type": type,
        "subject": f"run/{run}",
        "time": time or "2026-01-01T00:00:00.000001Z",
        "datacontenttype": "application/json",
        **attributes,
        "data": {"run_id": run, **data, **more},
    }


def ndjson(*events: Any) -> bytes:
    """Dicts become JSON lines; bytes stay as they are."""
    return b"\n".join(each if isinstance(each, bytes) else json.dumps(each).encode() for each in events)
