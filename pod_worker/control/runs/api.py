"""The read API of runs, and the two actions of an operator: cancel and reset.

Reads come from the views and the event log. The actions are the queue's; this module translates them to HTTP.
Responses are the stored documents (camelCase) without lease tokens.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Body, Query
from fastapi.responses import Response

from pod_worker.control.artifacts.access import artifact_view
from pod_worker.control.runs.downsampling import lttb
from pod_worker.control.runs.live import Position
from pod_worker.control.web.problem import ProblemError
from pod_worker.control.web.responses import json_response
from pod_worker.core.failure import known_failure
from pod_worker.core.retry import failure_hint
from pod_worker.core.run import Json, RunStatus
from pod_worker.store import artifact_registry as registry
from pod_worker.store.events.event_log import LEVELS
from pod_worker.store.events.reader import LOG_TYPE, EventFilter, EventReader
from pod_worker.store.mongo import Document, Mongo
from pod_worker.store.queue.operations import ActionOutcome, ActionResult, OperatorActions
from pod_worker.store.queue.run_document import run_from_document
from pod_worker.store.queue.stats import QueueStatsReader
from pod_worker.store.views.metric_series import MetricSeries, Series
from pod_worker.store.views.read_models import InvalidCursorError, ReadModels, RunFilter

Words = Annotated[list[str] | None, Query()]
Size = Annotated[int, Query(ge=1, le=1000)]


def router(database: Mongo) -> APIRouter:
    routes = _Routes(database)
    api = APIRouter(tags=["runs"])
    for path, route in (
        ("/api/runs", routes.list),
        ("/api/runs/{run_id}", routes.detail),
        ("/api/runs/{run_id}/events", routes.events),
        ("/api/runs/{run_id}/logs", routes.logs),
        ("/api/runs/{run_id}/metrics", routes.metrics),
        ("/api/stats", routes.stats),
    ):
        api.add_api_route(path, route, methods=["GET"])
    api.add_api_route("/api/runs/{run_id}/cancel", routes.cancel, methods=["POST"])
    api.add_api_route("/api/runs/{run_id}/reset", routes.reset, methods=["POST"])
    return api


class _Routes:
    def __init__(self, database: Mongo) -> None:
        self._database = database
        self._actions = OperatorActions(database)
        self._models = ReadModels(database)
        self._pages = EventReader(database)
        self._series = MetricSeries(database)
        self._depth = QueueStatsReader(database)

    def list(
        self,
        status: Words = None,
        pipeline: str | None = None,
        hypothesis_id: Annotated[str | None, Query(alias="hypothesisId")] = None,
        page: Annotated[int, Query(ge=1, le=1000)] = 1,
        page_size: Annotated[int, Query(alias="pageSize", ge=1, le=100)] = 25,
        cursor: str | None = None,
        hidden: bool = False,
    ) -> Response:
        """Newest first.

        `nextCursor` (or `page`) goes on; `total` stops counting at 10 000.
        """
        wanted = RunFilter(_statuses(status), pipeline, hypothesis_id, hidden)
        try:
            found = self._models.runs(wanted, page_size, page, cursor)
        except InvalidCursorError as error:
            raise ProblemError(422, "bad_cursor", str(error)) from None
        body = {"items": found.items, "total": found.total, "page": page, "pageSize": page_size}
        return json_response(body | {"nextCursor": found.next_cursor})

    def detail(self, run_id: str) -> Response:
        """The run with its stages, validations and artifacts.

        `hint` says how to fix its error.
        """
        return json_response(run_detail(self._database, self._models, run_id))

    def events(
        self,
        run_id: str,
        type: Words = None,
        level: str | None = None,
        since: datetime | None = None,
        cursor: Position = None,
        limit: Size = 100,
        order: Annotated[str, Query(pattern="^(asc|desc)$")] = "desc",
    ) -> Response:
        """Filtered before paging. Newest first unless `order=asc`; `nextCursor` goes on."""
        wanted = EventFilter(_words(type), _level(level), _aware(since))
        page = self._pages.read_page(run_id, wanted, limit, cursor, newest_first=order == "desc")
        return json_response({"items": page.items, "nextCursor": page.next_cursor})

    def logs(
        self,
        run_id: str,
        level: str | None = None,
        since: datetime | None = None,
        cursor: Position = None,
        tail: Size = 200,
    ) -> Response:
        """The last lines, oldest first.

        With `cursor` (a position) it gives the first ones after it.
        """
        wanted = EventFilter((LOG_TYPE,), _level(level), _aware(since))
        page = self._pages.read_page(run_id, wanted, tail, cursor, newest_first=cursor is None)
        items = page.items if cursor is not None else page.items[::-1]
        return json_response({"items": items, "nextCursor": items[-1]["position"] if items else cursor})

    def metrics(
        self,
        run_id: str,
        name: Words = None,
        stage: str | None = None,
        points: Annotated[int, Query(ge=3, le=10_000)] = 500,
    ) -> Response:
        """Series of [step, value, time, attempt].

        Each is downsampled to `points` without changing its shape.
        """
        series = self._series.read(run_id, _words(name), stage)
        return json_response({"series": [_series_view(each, points) for each in series]})

    def stats(self) -> Response:
        """Counts per status and queue, how old the oldest queued run is, and the leases."""
        depth = self._depth.read()
        return json_response(
            {
                "byStatus": {status.value: depth.by_status.get(status.value, 0) for status in RunStatus},
                "byQueue": depth.by_queue,
                "oldestQueuedSeconds": depth.oldest_queued_seconds,
                "leases": {"live": depth.leases_live, "expiring": depth.leases_expiring},
            }
        )

    def cancel(
        self,
        run_id: str,
        by: Annotated[str | None, Body()] = None,
        reason: Annotated[str | None, Body()] = None,
    ) -> Response:
        """200: the run is canceled. 202: its worker got the request and will confirm."""
        outcome = self._actions.cancel(run_id, by=by or "api", reason=reason)
        run = outcome.run
        if outcome.verdict is ActionResult.ALREADY and run and run.status is not RunStatus.CANCELED:
            raise ProblemError(409, "not_cancelable", f"the run is {run.status} already")
        return _action_response(outcome)

    def reset(
        self,
        run_id: str,
        by: Annotated[str | None, Body()] = None,
        force: Annotated[bool, Body()] = False,
        from_scratch: Annotated[bool, Body()] = False,
    ) -> Response:
        """Queue an ended or stale run again.

        A live lease is refused (409) unless `force`, which fences it.
        """
        return _action_response(
            self._actions.reset(run_id, by=by or "api", force=force, from_scratch=from_scratch)
        )


def run_detail(database: Mongo, models: ReadModels, run_id: str) -> dict[str, Json]:
    """Raises ProblemError 404."""
    run = models.run(run_id)
    if run is None:
        raise ProblemError(404, "run_not_found", f"there is no run {run_id[:200]!r}")
    return {
        "run": run,
        "hint": _hint(run),
        "stages": models.stages(run_id),
        "validations": models.validations(run_id),
        "artifacts": [artifact_view(row) for row in registry.of_run(database, run_id)],
        "hypothesis": models.hypothesis(run.get("hypothesisId")),
    }


def _hint(document: Document) -> str | None:
    run = run_from_document(document)
    failure = known_failure(run.error_code, run.exit_code)
    return failure_hint(failure, run.retry_on) if failure else None


def _action_response(outcome: ActionOutcome) -> Response:
    if outcome.verdict is ActionResult.MISSING or outcome.run is None:
        raise ProblemError(404, "run_not_found", "there is no such run")
    if outcome.verdict is ActionResult.LIVE:
        raise ProblemError(409, "live_lease", "a worker holds the run: cancel it first, or reset it with force")
    status = 202 if outcome.verdict is ActionResult.REQUESTED else 200
    body = {"success": True, "verdict": outcome.verdict.value, "status": outcome.run.status.value}
    return json_response(body, status)


def _words(given: list[str] | None) -> list[str]:
    """`?x=a&x=b` and `?x=a,b` alike."""
    return [word for each in given or () for word in each.split(",") if word]


def _statuses(given: list[str] | None) -> list[str]:
    words = [word.upper() for word in _words(given)]
    unknown = [word for word in words if word not in RunStatus.__members__]
    if unknown:
        raise ProblemError(422, "bad_status", f"status {unknown[0][:40]!r} is none of {', '.join(RunStatus)}")
    return words


def _level(given: str | None) -> str | None:
    level = {"warning": "warn"}.get(given or "", given)
    if level is not None and level not in LEVELS:
        raise ProblemError(422, "bad_level", f"level {level[:40]!r} is none of {', '.join(LEVELS)}")
    return level


def _aware(moment: datetime | None) -> datetime | None:
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment


def _series_view(series: Series, points: int) -> Json:
    samples = series.samples
    xy = [(float(each.step) if each.step is not None else each.time.timestamp(), each.value) for each in samples]
    kept = [samples[index] for index in lttb(xy, points)]
    return {
        "stage": series.stage,
        "name": series.name,
        "unit": series.unit,
        "total": len(samples),
        "points": [[each.step, each.value, each.time, each.attempt] for each in kept],
    }
