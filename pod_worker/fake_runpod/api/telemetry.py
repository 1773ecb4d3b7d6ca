"""Sinks for the telemetry of the original system's pods, and the list of what arrived (seed document 000).

Any JSON is taken under any kind; nothing is interpreted, and only the last few thousand are kept.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from pod_worker.core.run import Json
from pod_worker.fake_runpod import timestamps
from pod_worker.fake_runpod.api.responses import json_response, plain_error

if TYPE_CHECKING:
    from pod_worker.fake_runpod.runtime import SimulatorRuntime

KEEP = 5000
KINDS = (
    "run-started",
    "run-finished",
    "heartbeat",
    "stage-progress",
    "substage-completed",
    "paper-generation-progress",
    "gpu-shortage",
)


class TelemetryLog:
    def __init__(self) -> None:
        self.entries: deque[dict[str, Json]] = deque(maxlen=KEEP)

    def record(self, kind: str, body: Json, received_ns: int) -> None:
        self.entries.append({"kind": kind, "received_at": timestamps.rfc3339(received_ns), "payload": body})


def telemetry_routes(host: SimulatorRuntime) -> APIRouter:
    router = APIRouter()

    @router.get("/telemetry")
    async def list_telemetry() -> Response:
        return json_response(list(host.telemetry.entries))

    @router.post("/telemetry/{kind}")
    async def receive(kind: str, request: Request) -> Response:
        if kind not in KINDS:
            return plain_error(404, f"no telemetry sink {kind!r}; there are: {', '.join(KINDS)}")
        try:
            body = msgspec.json.decode(await request.body() or b"null")
        except msgspec.DecodeError as error:
            return plain_error(400, f"body is not JSON: {error}")
        host.telemetry.record(kind, body, host.world.now_ns)
        return json_response({"status": "ok"})

    return router
