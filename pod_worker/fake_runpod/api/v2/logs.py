"""REST v2 pod logs as server-sent events: a backlog, then live lines.

A client resumes after the last event's id. An event's id is the line's timestamp. `Last-Event-ID` takes
precedence over `since`, and `since` over `tail`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from pod_worker.fake_runpod import timestamps
from pod_worker.fake_runpod.cloud.logs import KEEP_LINES, LogLine, PodLog
from pod_worker.fake_runpod.errors import ApiError, ApiErrorKind
from pod_worker.fake_runpod.runtime import SimulatorRuntime

KEEPALIVE_SECONDS = 15.0
HEADERS = {"Cache-Control": "no-cache", "Connection": "keep-alive", "X-Accel-Buffering": "no"}


def log_routes(runtime: SimulatorRuntime) -> APIRouter:
    router = APIRouter()

    @router.get("/pods/{pod_id}/logs")
    async def pod_logs(pod_id: str, request: Request) -> Response:
        log = runtime.simulator.log_of(runtime.simulator.find(pod_id))
        source = request.query_params.get("source")
        if source not in (None, "container", "system"):
            raise _invalid("source: must be container or system")
        backlog, cursor = _backlog(request, log, source)
        stream = _stream(runtime, log, source, backlog, cursor)
        return StreamingResponse(stream, media_type="text/event-stream", headers=HEADERS)

    return router


def _backlog(request: Request, log: PodLog, source: str | None) -> tuple[list[LogLine], int]:
    """The first lines, and the timestamp after which live lines follow."""
    if last_id := request.headers.get("last-event-id"):
        after = _instant("Last-Event-ID", last_id)
        return log.after(after, source), max(after, log.last_ns)
    if since := request.query_params.get("since"):
        after = _instant("since", since) - 1
        return log.after(after, source), max(after, log.last_ns)
    tail = request.query_params.get("tail", "100")
    if not tail.isdecimal() or int(tail) > KEEP_LINES:
        raise _invalid(f"tail: must be an integer from 0 to {KEEP_LINES}")
    return log.tail(int(tail), source), log.last_ns


async def _stream(
    runtime: SimulatorRuntime, log: PodLog, source: str | None, backlog: list[LogLine], cursor: int
) -> AsyncIterator[bytes]:
    changed = asyncio.Event()
    unsubscribe = log.subscribe(changed.set)
    unlisten = runtime.on_closing(changed.set)
    try:
        yield b": connected\n\n" + b"".join(map(_event, backlog))
        while True:
            lines = log.after(cursor, source)
            cursor = max(cursor, log.last_ns)
            if lines:
                yield b"".join(map(_event, lines))
            if log.is_closed or runtime.is_closing:
                return
            try:
                await asyncio.wait_for(changed.wait(), KEEPALIVE_SECONDS)
            except TimeoutError:
                yield b": keep-alive\n\n"
            # Cleared before the log is read again, so that a line written meanwhile starts the next iteration.
            changed.clear()
    finally:
        unsubscribe()
        unlisten()


def _event(line: LogLine) -> bytes:
    data = msgspec.json.encode({"source": line.source, "line": line.text, "ts": line.stamp})
    return b"id: %s\ndata: %s\n\n" % (line.stamp.encode(), data)


def _instant(name: str, text: str) -> int:
    try:
        return timestamps.parse(text)
    except ValueError as error:
        raise _invalid(f"{name}: {error}") from None


def _invalid(line: str) -> ApiError:
    return ApiError(ApiErrorKind.INVALID, "Request validation failed.", (line,))
