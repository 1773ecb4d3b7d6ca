"""Metrics of a training loop that has no emitter: one POST per logging step.

Each value becomes an ordinary `ai.run.stage_metric` or `ai.run.stage_progress` event with an id made from its
content. So a repeated POST is a duplicate, and a replay restores the views. The response says when to stop.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from hashlib import sha256
from typing import Annotated

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from pod_worker.control.events.decoding import payload_of
from pod_worker.control.events.incoming import IncomingEvent
from pod_worker.control.ingest.batch import batch_from_events
from pod_worker.control.ingest.service import Ingest
from pod_worker.control.web.admission import CALLER
from pod_worker.control.web.body import read_body
from pod_worker.control.web.problem import ProblemError
from pod_worker.control.web.responses import json_response
from pod_worker.core.clock import Clock
from pod_worker.core.event import Event
from pod_worker.core.run import TERMINAL, Json, Run, RunStatus

STAGE = "training"
SOURCE = "training://jobs"
_Positive = Annotated[float, msgspec.Meta(ge=0)]


class _TrainingMetrics(msgspec.Struct, forbid_unknown_fields=True):
    step: Annotated[int, msgspec.Meta(ge=0)]
    epoch: float | None = None
    loss: float | None = None
    eval_loss: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    samples_per_second: float | None = None
    tokens_per_second: float | None = None
    elapsed_seconds: _Positive | None = None
    remaining_seconds: _Positive | None = None
    progress: float | None = None
    gpu_memory_allocated_gb: float | None = None
    gpu_memory_reserved_gb: float | None = None


_NO_SERIES = frozenset({"step", "epoch", "remaining_seconds", "progress"})
_METRICS = tuple(name for name in _TrainingMetrics.__struct_fields__ if name not in _NO_SERIES)
_decode = msgspec.json.Decoder(_TrainingMetrics).decode


def router(ingest: Ingest, find_run: Callable[[str], Run | None], clock: Clock) -> APIRouter:
    routes = APIRouter(tags=["training"])

    @routes.post("/api/training/jobs/{run_id}/metrics")
    async def post_metrics(run_id: str, request: Request) -> Response:
        """200 `{status: "ok"}`, with `command: "stop"` when the training must end.

        That is once the run is canceled, ended or in another attempt.
        """
        metrics = _read(await read_body(request.stream(), request.headers))
        run = await run_in_threadpool(find_run, run_id)
        if run is None:
            raise ProblemError(404, "run_not_found", f"there is no run {run_id[:200]!r}")
        attempt: int | None = request.scope[CALLER].attempt
        await ingest.ingest_and_wait(batch_from_events(_events(run_id, attempt, metrics, clock.now())))
        is_superseded = attempt not in (None, run.attempt)
        is_ended = run.status in TERMINAL - {RunStatus.COMPLETED}
        stop = run.cancel_requested_at is not None or is_ended or is_superseded
        return json_response({"status": "ok"} | ({"command": "stop"} if stop else {}))

    return routes


def _read(body: bytes) -> _TrainingMetrics:
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProblemError(422, "bad_metrics", str(error)) from None


def _events(run_id: str, attempt: int | None, metrics: _TrainingMetrics, now: datetime) -> list[IncomingEvent]:
    """`attempt` None counts for the current one."""
    name_of_attempt = "" if attempt is None else str(attempt)
    digest = sha256(f"{run_id}\0{name_of_attempt}".encode() + msgspec.json.encode(metrics)).hexdigest()[:32]
    found: list[IncomingEvent] = []
    for name in _METRICS:
        value = getattr(metrics, name)
        if value is not None:
            data = {"stage": STAGE, "name": name, "value": value, "step": metrics.step, "epoch": metrics.epoch}
            found.append(_event(run_id, attempt, "ai.run.stage_metric", f"{digest}-{name}", data, now))
    if metrics.progress is not None:
        data = {"stage": STAGE, "progress": metrics.progress, "eta_s": metrics.remaining_seconds}
        found.append(_event(run_id, attempt, "ai.run.stage_progress", f"{digest}-progress", data, now))
    return found


def _event(
    run_id: str, attempt: int | None, kind: str, event_id: str, metrics: dict[str, Json], now: datetime
) -> IncomingEvent:
    data = {"run_id": run_id} | {name: value for name, value in metrics.items() if value is not None}
    event = Event(event_id, SOURCE, kind, f"run/{run_id}", now, data, attempt=attempt)
    return IncomingEvent(event, payload_of(kind, data, event_id), run_id)
