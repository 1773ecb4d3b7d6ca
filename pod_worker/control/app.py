"""Builds the control plane: one FastAPI app over a database and an object store.

Holds no rule of its own. The composition root creates the indexes (`store.indexes`) and reads the settings.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI, Request
from starlette.concurrency import run_in_threadpool

from pod_worker import __version__
from pod_worker.artifacts.object_store import ObjectStore
from pod_worker.control import health
from pod_worker.control.artifacts import routes as artifact_routes
from pod_worker.control.content import routes as content_routes
from pod_worker.control.ideation import api as ideation_api
from pod_worker.control.ingest import routes as ingest_routes
from pod_worker.control.ingest import training_metrics
from pod_worker.control.ingest.group_commit import GroupCommit
from pod_worker.control.ingest.service import Ingest
from pod_worker.control.metrics import ControlPlaneMetrics
from pod_worker.control.pages import routes as page_routes
from pod_worker.control.runs import api, live
from pod_worker.control.secrets import routes as secret_routes
from pod_worker.control.web import problem
from pod_worker.control.web.admission import Admission, RequestLimits, require_admission
from pod_worker.control.web.auth import Authorizer
from pod_worker.control.web.fast_routes import ControlPlaneApp
from pod_worker.control.web.rate_limit import ClientRateLimit
from pod_worker.core.clock import Clock, SystemClock
from pod_worker.sealing import private_key
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
    encryption_key: str | None = None,
    instance: str | None = None,
    background_problems: Callable[[], list[str]] = list,
    limits: RequestLimits | None = None,
    clock: Clock | None = None,
    requests_per_second: float = REQUESTS_PER_SECOND,
    burst: int = BURST,
) -> ControlPlaneApp:
    """The app.

    `token` is CONTROL_PLANE_TOKEN. `open_on_loopback` lets clients on this machine in without it.
    `encryption_key` is ENCRYPTION_KEY, from which the key of sealed secrets is made; without it, `token` is.

    `background_problems` says what is wrong with threads outside the app; /readyz reports it. /readyz also returns
    `instance`, which proves to the process that chose it that this one responds.
    """
    clock = clock or SystemClock()
    admission = Admission(Authorizer(token, open_on_loopback), limits)
    app = ControlPlaneApp(
        admission, title=TITLE, version=__version__, docs_url=None, redoc_url=None, lifespan=_life
    )
    rate = ClientRateLimit(requests_per_second, burst, clock.monotonic)
    metrics = ControlPlaneMetrics(QueueStatsReader(database).read)
    ingest = Ingest(database, clock, metrics)
    app.state.group_commit = group_commit = GroupCommit(ingest)
    app.state.ingest = ingest
    find_run = RunQueue(database, clock).get
    problem.install(app)
    ingest_routes.install(app, group_commit, rate)
    app.include_router(health.router(database, clock, metrics, _problems(ingest, background_problems), instance))
    app.include_router(training_metrics.router(ingest, find_run, clock))
    app.include_router(live.router(database))
    app.include_router(api.router(database), dependencies=[Depends(_up_to_date)])
    app.include_router(ideation_api.router(database, clock), dependencies=[Depends(_up_to_date)])
    app.include_router(page_routes.router(database))
    app.include_router(secret_routes.router(database, private_key(encryption_key, token), require_admission))
    if object_store is not None:
        app.include_router(artifact_routes.router(database, object_store, require_admission, require_admission))
        app.include_router(content_routes.router(database, object_store, require_admission))
    return app


async def _up_to_date(request: Request) -> None:
    """A client whose event was acknowledged sees it in its next read."""
    projector = request.app.state.ingest.projector
    if projector.waiting_events():
        await run_in_threadpool(projector.wait_until_projected)


def _problems(ingest: Ingest, background: Callable[[], list[str]]) -> Callable[[], list[str]]:
    def found() -> list[str]:
        own = ingest.projector.problem()
        return [*([own] if own else []), *background()]

    return found


@asynccontextmanager
async def _life(app: FastAPI) -> AsyncIterator[None]:
    app.state.stopping = asyncio.Event()
    app.state.ingest.projector.start()
    yield
    app.state.stopping.set()
    await app.state.group_commit.close()
    await app.state.ingest.close()
