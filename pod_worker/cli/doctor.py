"""`pod-worker doctor`: checks and fixes; `doctor ingest` tests the ingest of any control plane."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pod_worker.cli.composition import load_settings, local_data_dir
from pod_worker.cli.exit_codes import ExitCode
from pod_worker.cli.options import json_option
from pod_worker.cli.output import print_json, print_table, say
from pod_worker.config import ConfigurationError, Settings
from pod_worker.core.bearer import BearerAuth
from pod_worker.core.run import Json
from pod_worker.core.secret import revealed
from pod_worker.local.description import read_description

if TYPE_CHECKING:
    from pod_worker.store.mongo import Mongo


@dataclass(frozen=True, slots=True)
class Diagnosis:
    what: str
    status: str  # ok | warn | bad
    text: str  # what was found, and the fix where something is wrong


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> int | None:
    """Check this machine and its connections, and print a fix for each problem.

    Exit code 1 when a check is bad.
    """
    if ctx.invoked_subcommand:
        return None
    return _report(list(_findings()), as_json)


def _report(findings: list[Diagnosis], as_json: bool) -> int:
    if as_json:
        # `verdict` is the earlier name of `status`.
        print_json([{"check": f.what, "status": f.status, "verdict": f.status, "text": f.text} for f in findings])
    else:
        styles = {"status": {"ok": "green", "warn": "yellow", "bad": "bold red"}}
        print_table(["check", "status", "finding"], [[f.what, f.status, f.text] for f in findings], styles)
    return ExitCode.FAILED if any(f.status == "bad" for f in findings) else ExitCode.OK


def _findings() -> list[Diagnosis]:
    try:
        settings = load_settings()
    except ConfigurationError as error:
        return [Diagnosis("settings", "bad", str(error))]
    checks: list[Callable[[Settings], Diagnosis]] = [
        _python,
        _local_binaries,
        _mongodb,
        _control_plane,
        _disk,
        _gpus,
        _training,
    ]
    return [check(settings) for check in checks]


def _python(_: Settings) -> Diagnosis:
    return Diagnosis("python", "ok", f"{sys.version.split()[0]} at {sys.executable}")


def _local_binaries(_: Settings) -> Diagnosis:
    from pod_worker.local.binaries import find_mongod, find_rclone
    from pod_worker.local.errors import LocalStackError

    try:
        return Diagnosis("local stack", "ok", f"mongod {find_mongod()}, rclone {find_rclone()}")
    except LocalStackError as error:
        return Diagnosis("local stack", "warn", str(error))


def _mongodb(settings: Settings) -> Diagnosis:
    from pod_worker.store.mongo import MongoUrlError, StoreUnreachableError, check_reachable, connect

    if settings.mongodb_url is None:
        fix = "MONGODB_URL is not set and no local stack runs. Set it, or run `pod-worker up`."
        return Diagnosis("MongoDB", "bad", fix)
    url = settings.mongodb_url.reveal()
    try:
        database = connect(url)
        with database.client:
            check_reachable(database, url)
            return _describe_mongodb(database, url)
    except (MongoUrlError, StoreUnreachableError) as error:
        return Diagnosis("MongoDB", "bad", str(error))


def _describe_mongodb(database: Mongo, url: str) -> Diagnosis:
    from pod_worker.store.mongo import redacted

    hello = database.command("hello")
    skew = abs((datetime.now(UTC) - hello["localTime"].replace(tzinfo=UTC)).total_seconds())
    if skew > 30:
        return Diagnosis(
            "MongoDB", "warn", f"this machine's clock differs from MongoDB's by {skew:.0f} s. Set it."
        )
    stack = read_description(local_data_dir())
    whose = " (the local stack)" if stack and stack.mongodb_url == url else ""
    version = database.client.server_info()["version"]
    return Diagnosis("MongoDB", "ok", f"{version} at {redacted(url)}, database {database.name}{whose}")


def _control_plane(settings: Settings) -> Diagnosis:
    from pod_worker.worker.preflight import control_plane_check

    problem = control_plane_check(settings.control_plane_url)()
    if problem:
        return Diagnosis("control plane", "bad", problem.message)
    key = "with a key" if settings.control_plane_token else "without a key (CONTROL_PLANE_TOKEN is not set)"
    return Diagnosis("control plane", "ok", f"{settings.control_plane_url} is ready, {key}")


def _disk(settings: Settings) -> Diagnosis:
    from pod_worker.worker.machine import GIB, free_bytes

    for folder in (settings.work_dir, settings.spool_dir):
        if not _is_writable(folder):
            fix = "Set HOME, POD_WORKER_WORK_DIR or POD_WORKER_SPOOL_DIR to a folder that it may write to."
            return Diagnosis("disk", "bad", f"{folder} cannot be written by this user. {fix}")
    free = free_bytes(settings.work_dir) / GIB
    status = "ok" if free >= max(settings.pod_worker_min_disk_gb, 5) else "warn"
    return Diagnosis("disk", status, f"{free:.0f} GB free at {settings.work_dir}")


def _is_writable(folder: Path) -> bool:
    """Whether the folder, or what exists of the path to it, can be written."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def _gpus(settings: Settings) -> Diagnosis:
    from pod_worker.worker.machine import GpuMonitor, expected_gpus

    gpus = GpuMonitor().list()
    needed = settings.pod_worker_required_gpus
    needed = expected_gpus(os.environ) if needed is None else needed
    if len(gpus) < needed:
        return Diagnosis("GPUs", "bad", f"{needed} expected, {len(gpus)} found. Replace this pod.")
    text = ", ".join(f"{gpu.name} ({gpu.vram_gb:.0f} GB)" for gpu in gpus)
    return Diagnosis("GPUs", "ok", text or "none; trainings run on the CPU")


def _training(_: Settings) -> Diagnosis:
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
    except PackageNotFoundError as error:
        cause = f"{error.name} is not installed, so this machine cannot execute trainings"
        return Diagnosis("training", "warn", f"{cause}. Fix: make train (or: pip install -e '.[train]')")
    return Diagnosis("training", "ok", found)


# ── ingest ──────────────────────────────────────────────────────────────────────────────────────────────────


@doctor.command()
@click.option("--url", help="The control plane. [default: CONTROL_PLANE_URL]")
@json_option
def ingest(url: str | None, as_json: bool) -> int:
    """Send test events to a control plane.

    A single event, a batch, a duplicate and an invalid one. Stores a few log lines of a run that does not exist
    and changes nothing else.
    """
    settings = load_settings()
    trial = IngestCheck(url or settings.control_plane_url, revealed(settings.control_plane_token))
    findings = trial.run()
    if any(finding.status == "bad" for finding in findings):
        say(f"ingest at {trial.url} does not follow the contract (docs/contract.md)")
    return _report(findings, as_json)


class IngestCheck:
    """The four checks of the original's test program (single, batch, duplicate, invalid)."""

    def __init__(self, url: str, token: str | None) -> None:
        import requests
        from ulid import ULID

        self.url = url.rstrip("/")
        self._run_id = f"doctor-{ULID()}".lower()
        self._new_id: Callable[[], ULID] = ULID
        self._session = requests.Session()
        self._session.auth = BearerAuth(token)

    def run(self) -> list[Diagnosis]:
        import requests

        first = self._event()
        try:
            return [
                self._one("single event", first, lambda code, body: code == 201 and "event_id" in body),
                self._batch(),
                self._one(
                    "duplicate", first, lambda code, body: code == 201 and body.get("status") == "duplicate"
                ),
                self._one("invalid event", self._event() | {"type": ""}, lambda code, body: code == 422),
            ]
        except requests.RequestException as error:
            return [Diagnosis("connection", "bad", f"{self.url} does not answer: {type(error).__name__}")]

    def _event(self) -> dict[str, Json]:
        return {
            "specversion": "1.0",
            "id": str(self._new_id()),
            "source": "doctor://local",
            "type": "ai.run.log",  # heartbeats are not kept, so a repeated one is no duplicate
            "subject": f"run/{self._run_id}",
            "time": datetime.now(UTC).isoformat(),
            "datacontenttype": "application/json",
            "data": {"run_id": self._run_id, "level": "debug", "message": "a test by pod-worker doctor"},
        }

    def _one(
        self, what: str, event: dict[str, Json], is_right: Callable[[int, dict[str, Json]], bool]
    ) -> Diagnosis:
        answer = self._session.post(
            f"{self.url}/api/ingest/event",
            json=event,
            headers={"Content-Type": "application/cloudevents+json"},
            timeout=15,
        )
        try:
            body = answer.json()
        except ValueError:
            body = {}
        good = is_right(answer.status_code, body if isinstance(body, dict) else {})
        return Diagnosis(what, "ok" if good else "bad", f"{answer.status_code} {answer.text[:120]}")

    def _batch(self) -> Diagnosis:
        import json

        lines = "\n".join(json.dumps(self._event()) for _ in range(3)) + "\n"
        answer = self._session.post(
            f"{self.url}/api/ingest/events",
            data=lines.encode(),
            headers={"Content-Type": "application/x-ndjson"},
            timeout=15,
        )
        good = answer.status_code == 202 and answer.json().get("accepted") == 3
        return Diagnosis("batch of 3", "ok" if good else "bad", f"{answer.status_code} {answer.text[:120]}")
