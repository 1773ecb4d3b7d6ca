"""Alive, ready, and the figures for Prometheus. Alive touches nothing; ready asks the database."""

from __future__ import annotations

from fastapi import APIRouter, Depends
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pymongo.errors import PyMongoError

from pod_worker.control.metrics import ControlPlaneMetrics
from pod_worker.control.web.auth import Authorize
from pod_worker.control.web.problem import database_away
from pod_worker.core.clock import Clock
from pod_worker.core.run import Json
from pod_worker.store.mongo import Mongo


def router(
    database: Mongo,
    clock: Clock,
    telemetry: ControlPlaneMetrics,
    authorize: Authorize,
    instance: str | None = None,
) -> APIRouter:
    made = APIRouter(tags=["health"])

    @made.get("/healthz")
    async def alive() -> dict[str, Json]:
        """The process answers."""
        return {"ok": True}

    @made.get("/readyz")
    def ready() -> dict[str, Json]:
        """MongoDB answers too. The answer names the database and, for who started this process, the instance."""
        _ping(database)
        return {"ok": True, "database": database.name} | ({"instance": instance} if instance else {})

    @made.get("/api/health")
    def health() -> dict[str, Json]:
        """The original's route: alive, the time, and the database."""
        _ping(database)
        return {"ok": True, "ts": clock.now().isoformat().replace("+00:00", "Z"), "database": database.name}

    @made.get("/metrics", dependencies=[Depends(authorize)], response_class=Response)
    def metrics() -> Response:
        return Response(generate_latest(telemetry.registry), media_type=CONTENT_TYPE_LATEST)

    return made


def _ping(database: Mongo) -> None:
    try:
        database.command("ping")
    except PyMongoError as error:
        raise database_away(error) from None
