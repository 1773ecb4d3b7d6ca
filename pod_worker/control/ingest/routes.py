"""The two ingest routes: from an HTTP request to the result of each line.

CONTRACT section 3.

No route blocks the event loop on the database, so a slow database delays neither the health routes nor reads.
"""

from __future__ import annotations

import msgspec
from fastapi import Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from pod_worker.control.events.incoming import IngestResult
from pod_worker.control.ingest.batch import FORBIDDEN, LineResult
from pod_worker.control.ingest.decode import (
    BINARY_TYPES,
    EVENT_TYPES,
    EVENTS_TYPES,
    decode_event,
    decode_events,
    media_type,
)
from pod_worker.control.ingest.group_commit import GroupCommit
from pod_worker.control.web.admission import CALLER
from pod_worker.control.web.body import read_body
from pod_worker.control.web.fast_routes import ControlPlaneApp
from pod_worker.control.web.problem import MEDIA_TYPE, ProblemError
from pod_worker.control.web.rate_limit import ClientRateLimit
from pod_worker.core.run import Json

ERRORS_SHOWN = 1000
READ_AT_ONCE_BYTES = 128 * 1024
_encode = msgspec.json.Encoder().encode


def install(app: ControlPlaneApp, group_commit: GroupCommit, rate: ClientRateLimit) -> None:
    routes = _Routes(group_commit, rate)
    app.add_fast_route("/api/ingest/events", routes.events, 202, "ingest")
    app.add_fast_route("/api/ingest/event", routes.event, 201, "ingest")


class _Routes:
    def __init__(self, group_commit: GroupCommit, rate: ClientRateLimit) -> None:
        self._group_commit = group_commit
        self._rate = rate

    async def event(self, request: Request) -> Response:
        """Store one CloudEvent, structured or binary."""
        self._rate.check(request)
        is_binary = "ce-specversion" in request.headers
        media_type(request.headers, BINARY_TYPES if is_binary else EVENT_TYPES)
        body = await read_body(request.stream(), request.headers)
        batch = decode_event(request.headers, body, is_binary=is_binary)
        batch.restrict_to(request.scope[CALLER])
        await self._group_commit.submit(batch)
        (found,) = batch.line_results()
        if found.result is IngestResult.INVALID:
            status = 403 if found.code == FORBIDDEN else 422
            raise ProblemError(status, "bad_event", found.error or "", extra={"errors": [_error(found)]})
        body_json = {"event_id": found.event_id}
        if found.result is not IngestResult.ACCEPTED:
            body_json["status"] = found.result.value
        return _json(201, body_json)

    async def events(self, request: Request) -> Response:
        """Store NDJSON or a CloudEvents batch, with a result for each line."""
        self._rate.check(request)
        kind = media_type(request.headers, EVENTS_TYPES)
        body = await read_body(request.stream(), request.headers)
        encoding = request.headers.get("content-encoding", "")
        # A usual batch is read faster than a thread is woken; a large one must not block the event loop.
        if encoding or len(body) > READ_AT_ONCE_BYTES:
            batch = await run_in_threadpool(decode_events, body, encoding, kind)
        else:
            batch = decode_events(body, encoding, kind)
        batch.restrict_to(request.scope[CALLER])
        await self._group_commit.submit(batch)
        counts = batch.counts()
        body_json: dict[str, Json] = {
            "accepted": counts[IngestResult.ACCEPTED],
            "duplicates": counts[IngestResult.DUPLICATE],
            "fenced": counts[IngestResult.FENCED],
            "invalid": counts[IngestResult.INVALID],
        }
        if not batch.refused:
            return _json(202, body_json)
        return _json(207, _refusals(request, batch.line_results()) | body_json, MEDIA_TYPE)


def _refusals(request: Request, results: list[LineResult]) -> dict[str, Json]:
    errors = [{"line": each.line_number} | _error(each) for each in results if each.result is IngestResult.INVALID]
    return {
        "type": "urn:pod-worker:problem:bad-lines",
        "title": "Some lines were refused",
        "status": 207,
        "detail": f"{len(errors)} of {len(results)} lines were refused; every good line is kept",
        "instance": request.url.path,
        "errors": errors[:ERRORS_SHOWN],
    }


def _error(result: LineResult) -> dict[str, Json]:
    found = {"event_id": result.event_id, "code": result.code, "error": result.error}
    return {name: value for name, value in found.items() if value is not None}


def _json(status: int, body: Json, media_type: str = "application/json") -> Response:
    return Response(_encode(body), status, media_type=media_type)
