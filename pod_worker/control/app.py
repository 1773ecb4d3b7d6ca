"""Puts the control plane together: one FastAPI app over the database and the object store it is given.

Holds no rule of its own. Indexes are made by the composition root (`store.indexes`), settings are read there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI, Request
from starlette.concurrency import run_in_threadpool

from pod_worker import __version__
from pod_worker.artifacts.object_store import ObjectStore
from pod_worker.control import health
from pod_worker.control.artifacts import routes as artifact_routes
from pod_worker.control.ingest import routes as ingest_routes
from pod_worker.control.ingest import training_metrics
from pod_worker.control.ingest.group_commit import GroupCommit
from pod_worker.control.ingest.service import Ingest
from pod_worker.control.metrics import ControlPlaneMetrics
from pod_worker.control.pages import routes as page_routes
from pod_worker.control.runs import api, live
from pod_worker.control.web import problem
from pod_worker.control.web.auth import Authorizer
from pod_worker.control.web.fast_routes import ControlPlaneApp
from pod_worker.control.web.rate_limit import ClientRateLimit
from pod_worker.core.clock import Clock, SystemClock
from pod_worker.store.mongo import Mongo
from pod_worker.store.queue.run_queue import RunQueue
from pod_worker.store.queue.stats import QueueStatsReader

TITLE = "pod_worker control plane"
REQUESTS_PER_SECOND = 1000.0
BURST = 2000


def build_app(
    database: Mongo,
    object_store: ObjectStore | None,
    *,
    token: str | None,
    open_on_loopback: bool,
    instance: str | None = None,
    clock: Clock | None = None,
    requests_per_second: float = REQUESTS_PER_SECOND,
    burst: int = BURST,
) -> ControlPlaneApp:
    """`token` is CONTROL_PLANE_TOKEN. `open_on_loopback` lets clients on this machine in without it.

    `instance` is returned by /readyz: it proves to the process that chose it that this one answers.
    """
    clock = clock or SystemClock()
    app = ControlPlaneApp(title=TITLE, version=__version__, docs_url=None, redoc_url=None, lifespan=_life)
    gate = Authorizer(token, open_on_loopback)
    rate = ClientRateLimit(requests_per_second, burst, clock.monotonic)
    telemetry = ControlPlaneMetrics(QueueStatsReader(database).read)
    ingest = Ingest(database, clock, telemetry)
    app.state.intake = intake = GroupCommit(ingest)
    app.state.ingest = ingest
    find_run = RunQueue(database, clock).get
    problem.install(app)
    ingest_routes.install(app, intake, gate.authorize_events, rate)
    app.include_router(health.router(database, clock, telemetry, gate.authorize, instance))
    app.include_router(training_metrics.router(ingest, find_run, clock, gate.authorize_job))
    app.include_router(live.router(database, gate.authorize))
    reads = api.router(database, gate.authorize)
    app.include_router(reads, dependencies=[Depends(_up_to_date)])
    app.include_router(page_routes.router(database.name, gate.authorize))
    if object_store is not None:
        app.include_router(
            artifact_routes.router(database, object_store, gate.authorize_artifacts, gate.authorize)
        )
    return app


async def _up_to_date(request: Request) -> None:
    """Whoever was told that an event is stored sees it in the next answer."""
    projector = request.app.state.ingest.projector
    if projector.waiting_events():
        await run_in_threadpool(projector.wait_until_projected)


@asynccontextmanager
async def _life(app: FastAPI) -> AsyncIterator[None]:
    app.state.stopping = asyncio.Event()
    app.state.ingest.projector.start()
    yield
    app.state.stopping.set()
    await app.state.intake.close()
    await app.state.ingest.close()
