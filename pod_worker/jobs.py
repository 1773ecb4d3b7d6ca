"""Submit your own commands from Python, and follow them.

    from pod_worker import jobs

    job = jobs.run(run=["python", "train.py"], workdir=".", envs={"LR": "1e-4"})
    for line in job.logs(follow=True):
        print(line.message)
    print(job.wait().exit_code)

The keyword arguments of `run` are the fields of a job file (docs/jobs.md). Settings come from the environment and
`.env`, else from the local stack that runs. An error says the cause, then the fix.
"""

from __future__ import annotations

import inspect
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypedDict, Unpack

import msgspec
from pymongo.errors import ConnectionFailure

from pod_worker.command.job.spec import JobSpec, read_job
from pod_worker.command.params import OutputGlob
from pod_worker.content.tree import TreeLimits
from pod_worker.core.clock import SystemClock
from pod_worker.stack_settings import load_settings
from pod_worker.store import indexes
from pod_worker.store.mongo import Document, Mongo, check_reachable, connect, ensure_indexes
from pod_worker.store.queue.run_queue import RunQueue
from pod_worker.store.views.read_models import ReadModels
from pod_worker.submission.address import ControlPlaneAddress
from pod_worker.submission.job_plan import plan_job, secret_values
from pod_worker.submission.lookup import find_run
from pod_worker.submission.reconnecting import until_reconnected
from pod_worker.submission.run_end import DELETED, RunEnd, end_of, has_ended
from pod_worker.submission.run_log import follow_pages, log_tail
from pod_worker.submission.submit import submit_jobs
from pod_worker.submission.workdir import plan_workdir

__all__ = ["Job", "JobFields", "JobLogLine", "RunEnd", "close", "get", "run"]

POLL_SECONDS = 0.5
Scalar = str | int | float | bool
_connections: dict[str, Mongo] = {}
_connecting = threading.Lock()


class JobFields(TypedDict, total=False):
    """The fields of a job file; `run` is required."""

    run: str | list[Scalar]
    name: str | None
    labels: dict[str, Scalar]
    setup: str
    lock_files: list[str]
    workdir: str | os.PathLike[str] | None
    python: str | float
    envs: dict[str, Scalar]
    secrets: dict[str, str | None]
    resources: dict[str, str | float | None]
    max_duration: str | float
    max_queue_time: str | float
    retry: dict[str, int | list[str]]
    outputs: list[str | dict[str, str | bool] | OutputGlob]
    checkpoint_dir: str
    checkpoint_every: str | float
    keep_checkpoints: int
    priority: int
    queue: str | None
    after: list[str] | dict[str, str | list[str]] | None
    sandbox: bool
    metrics: dict[str, str]


@dataclass(frozen=True, slots=True)
class JobLogLine:
    time: datetime
    level: str
    message: str


class Job:
    """A run of your own command."""

    def __init__(self, run_id: str, database: Mongo) -> None:
        self.id = run_id
        self._database = database
        self._models = ReadModels(database)

    def __repr__(self) -> str:
        return f"Job({self.id!r})"

    def status(self) -> str:
        """QUEUED, RUNNING, COMPLETED, FAILED, CANCELED …; DELETED for one that is gone."""
        return str(self._document().get("status"))

    def wait(self, timeout: float | None = None) -> RunEnd:
        """Blocks until the run has ended. Raises TimeoutError after `timeout` seconds."""
        ends_at = None if timeout is None else time.monotonic() + timeout
        while not has_ended(run := self._document_if_reachable()):
            if ends_at is not None and time.monotonic() >= ends_at:
                raise TimeoutError(f"run {self.id} has not ended within {timeout:g} s; it goes on")
            time.sleep(POLL_SECONDS)
        return end_of(run)

    def logs(self, *, follow: bool = False, last: int = 1000) -> Iterator[JobLogLine]:
        """The newest `last` lines; with `follow`, also new ones until the run ends."""
        lines = log_tail(self._database, self.id, last)
        pages = follow_pages(self._models, lines, self.id, until_reconnected) if follow else iter([lines.read()])
        for event in (event for page in pages for event in page):
            data = event.get("data") or {}
            yield JobLogLine(event["time"], str(data.get("level", "info")), str(data.get("message", "")))

    def _document_if_reachable(self) -> Document:
        """Empty while MongoDB does not answer: the run goes on meanwhile."""
        try:
            return self._document()
        except ConnectionFailure:
            return {}

    def _document(self) -> Document:
        return self._models.run(self.id) or {"status": DELETED}


def run(**fields: Unpack[JobFields]) -> Job:
    """Upload the workdir, queue the command, return at once.

    A relative `workdir` is seen from the current folder; without it nothing is uploaded. `secrets={"KEY": None}`
    takes the value from your environment. Raises RunError for wrong fields, SubmissionError, and errors of the
    store.
    """
    spec = read_job(msgspec.to_builtins(fields, enc_hook=os.fspath))
    workdir = None if spec.workdir is None else plan_workdir(spec.workdir, Path.cwd(), TreeLimits())
    planned = plan_job(spec, workdir, {})
    secrets = secret_values(spec)
    settings = load_settings()
    database = _connected(settings.require_mongodb_url())
    queue = RunQueue(
        database,
        SystemClock(),
        lease_seconds=settings.pod_worker_lease_seconds,
        margin_seconds=settings.margin_seconds,
    )
    address = ControlPlaneAddress(settings.control_plane_url, settings.control_plane_token)
    models = ReadModels(database)
    [run_id] = submit_jobs([planned], workdir, secrets, models=models, queue=queue, address=address)
    return Job(run_id, database)


def get(word: str) -> Job:
    """The job with this id or name; the newest of that name. Raises NoSuchRunError."""
    database = _connected(load_settings().require_mongodb_url())
    return Job(str(find_run(ReadModels(database), word)["_id"]), database)


def close() -> None:
    """End the connections to MongoDB; jobs of them can no longer be asked."""
    with _connecting:
        while _connections:
            _connections.popitem()[1].client.close()


def _connected(url: str) -> Mongo:
    """One connection a server, because a client has threads of its own."""
    with _connecting:
        if url not in _connections:
            database = connect(url, app_name="pod_worker jobs")
            try:
                check_reachable(database, url)
                ensure_indexes(database, indexes.all_indexes())
            except BaseException:
                database.client.close()
                raise
            _connections[url] = database
        return _connections[url]


def _signature() -> inspect.Signature:
    """Of `run`, with the names and defaults of the schema, for help() and editors."""
    found: list[inspect.Parameter] = []
    for each in msgspec.structs.fields(JobSpec):
        default: Any = each.default
        if default is msgspec.NODEFAULT:
            default = inspect.Parameter.empty if each.required else each.default_factory()
        found.append(inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=default))
    return inspect.Signature(found, return_annotation=Job)


run.__signature__ = _signature()  # type: ignore[attr-defined]
