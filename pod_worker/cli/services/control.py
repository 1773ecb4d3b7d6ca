"""`pod-worker control`: ingest, API, page, and the rescue of runs."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from datetime import UTC, datetime

import click
from pymongo.errors import PyMongoError

from pod_worker.artifacts.keys import UPLOADS
from pod_worker.artifacts.object_store import ObjectStore, ObjectStoreError
from pod_worker.cli.composition import StoreSession, open_store
from pod_worker.cli.exit_codes import CommandError, ExitCode
from pod_worker.cli.log_output import configure_logging
from pod_worker.cli.object_storage import object_store
from pod_worker.config import INSTANCE_VARIABLE, Settings
from pod_worker.control.app import build_app
from pod_worker.control.artifacts.sweep import UPLOAD_DAYS, sweep_checkpoints, sweep_uploads
from pod_worker.control.content.sweep import sweep_content
from pod_worker.control.server import serve
from pod_worker.core.credentials.secret import revealed
from pod_worker.process.supervised_thread import SupervisedThread, every
from pod_worker.stack_settings import load_settings
from pod_worker.store.errors import describe_error, is_permanent_error
from pod_worker.store.events.event_log import EventLog
from pod_worker.store.ideation.sweep import IdeationSweep
from pod_worker.store.mongo import Mongo, redacted
from pod_worker.store.queue.rescue import Rescue
from pod_worker.store.views.metric_series import MetricSeries

log = logging.getLogger("pod_worker.control")
RESCUE_SECONDS = 3.0
IDEATION_SECONDS = 3.0
UPLOAD_SWEEP_SECONDS = 3600.0
CHECKPOINT_SWEEP_SECONDS = 300.0
RETENTION_SECONDS = 600.0
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8787, show_default=True, help="0 takes a free one.")
@click.option(
    "--open-on-loopback/--require-key",
    default=False,
    help="Serve clients on this machine without a key; never behind a proxy. [default: --require-key]",
)
@click.pass_context
def control(ctx: click.Context, host: str, port: int, open_on_loopback: bool) -> None:
    """Serve ingest, the API and the web page, and rescue runs of dead workers.

    Needs MONGODB_URL; MINIO_ENDPOINT, MINIO_ACCESS_KEY and MINIO_SECRET_KEY for artifacts; CONTROL_PLANE_TOKEN
    as the key that pods and people present. Prints {"url": …} when it is ready.
    """
    configure_logging(bool(ctx.obj and ctx.obj.get("debug")))
    settings = load_settings()
    _check_access(settings, host, open_on_loopback)
    store = open_store(settings, with_indexes=True, app_name="pod_worker control")
    objects = object_store(settings)
    threads = [
        rescue_thread(store.rescue()),
        retention_thread(store.database),
        ideation_thread(store.ideation()),
    ]
    if objects is not None:
        threads.append(upload_sweep_thread(store.database, objects))
        threads.append(checkpoint_sweep_thread(store.database, objects))
        threads.append(content_sweep_thread(store.database, objects))
    app = build_app(
        store.database,
        objects,
        token=revealed(settings.control_plane_token),
        open_on_loopback=open_on_loopback,
        encryption_key=revealed(settings.encryption_key),
        instance=os.environ.get(INSTANCE_VARIABLE),
        background_problems=lambda: [problem for thread in threads if (problem := thread.problem())],
    )
    serve(app, host, port, on_ready=lambda at, on: _begin(store, threads, at, on))


def _check_access(settings: Settings, host: str, open_on_loopback: bool) -> None:
    """Raises CommandError when it would be open to other machines, or to no one."""
    if open_on_loopback and host not in LOOPBACK:
        raise CommandError(
            f"--open-on-loopback and --host {host} exclude each other: listen on 127.0.0.1, or drop the flag",
            ExitCode.USAGE,
        )
    if settings.control_plane_token is None and not open_on_loopback:
        raise CommandError(
            "CONTROL_PLANE_TOKEN is not set, so no client could use the control plane: set it to a random value "
            "(for this machine alone, pass --open-on-loopback)",
            ExitCode.USAGE,
        )


def _begin(store: StoreSession, threads: Sequence[SupervisedThread], host: str, port: int) -> None:
    """What needs the port: start the threads, and say that it is ready.

    A control plane that cannot listen must do neither.
    """
    for thread in threads:
        thread.start()
    log.info("MongoDB %s, database %s", redacted(store.url), store.database.name)
    shown = f"[{host}]" if ":" in host else host
    click.echo(json.dumps({"url": f"http://{shown}:{port}"}))


def upload_sweep_thread(database: Mongo, objects: ObjectStore) -> SupervisedThread:
    """Deletes unfinished uploads now and then.

    A store with lifecycle rules does a part of it.
    """

    def sweep() -> None:
        try:
            objects.expire_uploads(f"{UPLOADS}/", UPLOAD_DAYS)
            result = sweep_uploads(database, objects, datetime.now(UTC))
        except ObjectStoreError as error:  # the control plane is ready without it
            log.warning("unfinished uploads are swept later: %s", error)
            return
        if result.objects or result.uploads:
            log.info("deleted %d unfinished objects, aborted %d uploads", result.objects, result.uploads)

    return SupervisedThread("upload sweep", every(UPLOAD_SWEEP_SECONDS, sweep), stuck_seconds=None)


def checkpoint_sweep_thread(database: Mongo, objects: ObjectStore) -> SupervisedThread:
    """Deletes checkpoints that newer ones have superseded."""

    def sweep() -> None:
        try:
            if deleted := sweep_checkpoints(database, objects):
                log.info("deleted %d superseded checkpoints", deleted)
        except ObjectStoreError as error:
            log.warning("superseded checkpoints are deleted later: %s", error)

    return SupervisedThread("checkpoint sweep", every(CHECKPOINT_SWEEP_SECONDS, sweep), stuck_seconds=None)


def content_sweep_thread(database: Mongo, objects: ObjectStore) -> SupervisedThread:
    """Deletes files of workdirs that nothing names any more."""

    def sweep() -> None:
        try:
            if deleted := sweep_content(database, objects, datetime.now(UTC)):
                log.info("deleted %d objects of unused content", deleted)
        except ObjectStoreError as error:
            log.warning("unused content is deleted later: %s", error)

    return SupervisedThread("content sweep", every(UPLOAD_SWEEP_SECONDS, sweep), stuck_seconds=None)


def retention_thread(database: Mongo) -> SupervisedThread:
    """Bounds the events and the metric points of each run."""

    def sweep() -> None:
        try:
            if deleted := EventLog(database).limit_events():
                log.warning("deleted %d events of runs that have too many", deleted)
            MetricSeries(database).limit_documents()
        except PyMongoError as error:
            if is_permanent_error(error):
                raise
            log.warning("retention is delayed: %s", describe_error(error))

    return SupervisedThread("retention", every(RETENTION_SECONDS, sweep), stuck_seconds=None)


def rescue_thread(rescue: Rescue) -> SupervisedThread:
    """Sweeps for runs of dead workers.

    Workers sweep too, but only while they are idle.
    """

    def sweep() -> None:
        try:
            for each in rescue.sweep():
                log.warning("rescued run %s of worker %s: %s", each.run.id, each.worker_id, each.run.status)
        except PyMongoError as error:
            if is_permanent_error(error):
                raise
            log.warning("rescue is delayed: %s", describe_error(error))

    return SupervisedThread("rescue", every(RESCUE_SECONDS, sweep), backoff_seconds=(RESCUE_SECONDS, 30.0))


def ideation_thread(ideation: IdeationSweep) -> SupervisedThread:
    """Adopts ideation requests, copies the states of their runs, launches experiments."""

    def sweep() -> None:
        try:
            ideation.run()
        except PyMongoError as error:
            if is_permanent_error(error):
                raise
            log.warning("ideation requests wait: %s", describe_error(error))

    return SupervisedThread("ideation", every(IDEATION_SECONDS, sweep), backoff_seconds=(IDEATION_SECONDS, 30.0))
