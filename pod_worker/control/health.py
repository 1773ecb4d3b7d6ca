"""Liveness, readiness and the metrics for Prometheus.

Liveness touches nothing; readiness asks the database.
"""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pymongo.errors import PyMongoError

from pod_worker.control.metrics import ControlPlaneMetrics
from pod_worker.control.web.problem import ProblemError, database_unavailable
from pod_worker.core.clock import Clock, rfc3339
from pod_worker.core.run import Json
from pod_worker.store.mongo import Mongo


def router(
    database: Mongo,
    clock: Clock,
    metrics: ControlPlaneMetrics,
    problems: Callable[[], list[str]],
    instance: str | None = None,
) -> APIRouter:
    """The routes.

    `problems` says which background threads do not work; `instance` is returned by /readyz.
    """
    routes = _Routes(database, clock, metrics, problems, instance)
    api = APIRouter(tags=["health"])
    api.add_api_route("/healthz", routes.alive, methods=["GET"])
    api.add_api_route("/readyz", routes.ready, methods=["GET"])
    api.add_api_route("/api/health", routes.health, methods=["GET"])
    api.add_api_route("/metrics", routes.read_metrics, methods=["GET"], response_class=Response)
    return api


class _Routes:
    def __init__(
        self,
        database: Mongo,
        clock: Clock,
        metrics: ControlPlaneMetrics,
        problems: Callable[[], list[str]],
        instance: str | None,
    ) -> None:
        self._database = database
        self._clock = clock
        self._metrics = metrics
        self._problems = problems
        self._instance = instance

    async def alive(self) -> dict[str, Json]:
        """The process responds."""
        return {"ok": True}

    def ready(self) -> dict[str, Json]:
        """MongoDB responds and every background thread works.

        Names the database and the instance.
        """
        self._ping()
        if found := self._problems():
            detail = f"{'; '.join(found)[:500]}. See the log; restart the control plane if this stays"
            raise ProblemError(503, "not_ready", detail)
        named = {"instance": self._instance} if self._instance else {}
        return {"ok": True, "database": self._database.name} | named

    def health(self) -> dict[str, Json]:
        """The original's route: alive, the time, and the database."""
        self._ping()
        now = rfc3339(self._clock.now())
        return {"ok": True, "ts": now, "database": self._database.name}

    def read_metrics(self) -> Response:
        return Response(generate_latest(self._metrics.registry), media_type=CONTENT_TYPE_LATEST)

    def _ping(self) -> None:
        try:
            self._database.command("ping")
        except PyMongoError as error:
            raise database_unavailable(error) from None
