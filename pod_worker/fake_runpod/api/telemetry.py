"""Telemetry sinks of the original system's pods (seed document 000).

A sink accepts any JSON and interprets nothing.
"""

from __future__ import annotations

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from pod_worker.fake_runpod.api.responses import json_response, plain_error
from pod_worker.fake_runpod.runtime import SimulatorRuntime

KINDS = (
    "run-started",
    "run-finished",
    "heartbeat",
    "stage-progress",
    "substage-completed",
    "paper-generation-progress",
    "gpu-shortage",
)


def telemetry_routes(runtime: SimulatorRuntime) -> APIRouter:
    router = APIRouter()

    @router.get("/telemetry")
    async def list_telemetry() -> Response:
        return json_response(list(runtime.telemetry.entries))

    @router.post("/telemetry/{kind}")
    async def receive(kind: str, request: Request) -> Response:
        if kind not in KINDS:
            return plain_error(404, f"no telemetry sink {kind!r}; there are: {', '.join(KINDS)}")
        try:
            body = msgspec.json.decode(await request.body() or b"null")
        except msgspec.DecodeError as error:
            return plain_error(400, f"body is not JSON: {error}")
        runtime.telemetry.record(kind, body, runtime.simulator.now_ns)
        return json_response({"status": "ok"})

    return router
