"""The two ingest routes: what comes over HTTP, and which status each fate has. CONTRACT section 3.

Whatever waits for the database is awaited (or waits in a thread, where it is rare), so that a slow database keeps
neither the health route nor the read API from answering.
"""

from __future__ import annotations

import msgspec
from fastapi import Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from pod_worker.control.events.decoding import InvalidEventError, read_binary, read_line
from pod_worker.control.events.incoming import IngestResult
from pod_worker.control.ingest.batch import (
    FORBIDDEN,
    IngestBatch,
    LineResult,
    invalid_batch,
    read_batch,
    restrict_to_caller,
)
from pod_worker.control.ingest.group_commit import GroupCommit
from pod_worker.control.web.auth import Authorize, Caller
from pod_worker.control.web.body import LINE_LIMIT, check_line, decoded, lines_of, read_body
from pod_worker.control.web.fast_routes import ControlPlaneApp
from pod_worker.control.web.problem import MEDIA_TYPE, ProblemError
from pod_worker.control.web.rate_limit import ClientRateLimit
from pod_worker.core.run import Json

ERRORS_SHOWN = 1000
READ_AT_ONCE_BYTES = 128 * 1024
_ONE = frozenset({"application/cloudevents+json", "application/json"})
_LINES = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"})
_BATCH = "application/cloudevents-batch+json"
_MANY = _LINES | {_BATCH}
_JUST_JSON = frozenset({"application/json"})
_encode = msgspec.json.Encoder().encode


def install(app: ControlPlaneApp, intake: GroupCommit, authorize: Authorize, rate: ClientRateLimit) -> None:
    routes = _Routes(intake, authorize, rate)
    app.add_fast_route("/api/ingest/events", routes.events, 202, "ingest")
    app.add_fast_route("/api/ingest/event", routes.event, 201, "ingest")


class _Routes:
    def __init__(self, intake: GroupCommit, authorize: Authorize, rate: ClientRateLimit) -> None:
        self._intake = intake
        self._authorize = authorize
        self._rate = rate

    async def _admit(self, request: Request) -> Caller:
        await self._rate.check(request)
        return await self._authorize(request)

    async def event(self, request: Request) -> Response:
        """One CloudEvent, structured or binary."""
        caller = await self._admit(request)
        is_binary = "ce-specversion" in request.headers
        _check_type(request, _JUST_JSON if is_binary else _ONE)
        body = await read_body(request.stream(), request.headers)
        batch = _read_one(request, body, is_binary)
        restrict_to_caller(batch, caller)
        await self._intake.submit(batch)
        (fate,) = batch.line_results()
        if fate.verdict is IngestResult.INVALID:
            error = _error(fate.event_id, fate.code, fate.error)
            status = 403 if fate.code == FORBIDDEN else 422
            raise ProblemError(status, "bad_event", fate.error or "", extra={"errors": [error]})
        answer = {"event_id": fate.event_id}
        if fate.verdict is not IngestResult.ACCEPTED:
            answer["status"] = fate.verdict.value
        return _json(201, answer)

    async def events(self, request: Request) -> Response:
        """NDJSON (or a CloudEvents batch), a verdict for each line."""
        caller = await self._admit(request)
        kind = _check_type(request, _MANY)
        body = await read_body(request.stream(), request.headers)
        encoding = request.headers.get("content-encoding", "")
        # A usual batch is read faster than a thread is woken; a large one must not hold up everybody else.
        if encoding or len(body) > READ_AT_ONCE_BYTES:
            batch = await run_in_threadpool(_read_many, body, encoding, kind)
        else:
            batch = _read_many(body, encoding, kind)
        restrict_to_caller(batch, caller)
        await self._intake.submit(batch)
        counts = batch.counts()
        answer: dict[str, Json] = {
            "accepted": counts[IngestResult.ACCEPTED],
            "duplicates": counts[IngestResult.DUPLICATE],
            "fenced": counts[IngestResult.FENCED],
            "invalid": counts[IngestResult.INVALID],
        }
        if not batch.refused:
            return _json(202, answer)
        return _json(207, _refusals(request, batch.line_results()) | answer, MEDIA_TYPE)


def _read_one(request: Request, body: bytes, is_binary: bool) -> IngestBatch:
    body = decoded(body, request.headers.get("content-encoding", ""))
    check_line(1, body)
    try:
        arrival = read_binary(request.headers, body) if is_binary else read_line(body)
        return IngestBatch([arrival], [body])
    except InvalidEventError as why:
        return invalid_batch(body, why)


def _read_many(body: bytes, encoding: str, kind: str) -> IngestBatch:
    body = decoded(body, encoding)
    return read_batch(_batch_lines(body) if kind == _BATCH else lines_of(body))


def _refusals(request: Request, fates: list[LineResult]) -> dict[str, Json]:
    errors = [_bad_line(fate) for fate in fates if fate.verdict is IngestResult.INVALID]
    return {
        "type": "urn:pod-worker:problem:bad-lines",
        "title": "Some lines were refused",
        "status": 207,
        "detail": f"{len(errors)} of {len(fates)} lines were refused; every good line is kept",
        "instance": request.url.path,
        "errors": errors[:ERRORS_SHOWN],
    }


def _check_type(request: Request, allowed: frozenset[str]) -> str:
    """The media type; none at all is taken for the usual one."""
    given = request.headers.get("content-type", "")
    if given in allowed:
        return given
    kind, _, parameters = given.partition(";")
    kind = kind.strip().lower()
    charset = parameters.partition("charset=")[2].strip(' "').lower()
    if kind and kind not in allowed:
        wanted = " or ".join(sorted(allowed))
        raise ProblemError(415, "bad_content_type", f"Content-Type {kind[:80]!r} is not read here: send {wanted}")
    if charset and charset not in ("utf-8", "utf8", "us-ascii"):
        raise ProblemError(415, "bad_content_type", f"charset {charset[:40]!r} is not read: send UTF-8")
    return kind


def _batch_lines(body: bytes) -> list[bytes]:
    """A JSON array of events: its elements are its lines."""
    try:
        found = [bytes(each) for each in msgspec.json.decode(body, type=list[msgspec.Raw])]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProblemError(422, "bad_batch", f"the body is not a JSON array of events: {error}") from None
    if len(found) > LINE_LIMIT:
        raise ProblemError(
            413, "too_large", f"{len(found)} events, {LINE_LIMIT} are allowed: send smaller batches"
        )
    for number, each in enumerate(found, 1):
        check_line(number, each)
    return found


def _error(event_id: str | None, code: str | None, error: str | None) -> Json:
    found = {"event_id": event_id, "code": code, "error": error}
    return {name: value for name, value in found.items() if value is not None}


def _bad_line(fate: LineResult) -> Json:
    return {"line": fate.number} | _error(fate.event_id, fate.code, fate.error)


def _json(status: int, answer: Json, media_type: str = "application/json") -> Response:
    return Response(_encode(answer), status, media_type=media_type)
