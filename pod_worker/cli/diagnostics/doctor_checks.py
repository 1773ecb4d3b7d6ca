"""The checks of `pod-worker doctor`: what each found, and the fix."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pod_worker.cli.diagnostics.diagnosis import Diagnosis
from pod_worker.cli.output import say
from pod_worker.config import ConfigurationError, Settings
from pod_worker.core.credentials.secret import revealed
from pod_worker.local.description import read_description
from pod_worker.stack_settings import load_settings, local_data_dir

if TYPE_CHECKING:
    from pod_worker.store.mongo import Mongo

TRAINING_STEP_SECONDS = 180
TRAINING_LIBRARIES = ("torch", "transformers", "peft", "safetensors")


def run_checks(is_deep: bool = False) -> Iterator[Diagnosis]:
    """All checks, one after another; without valid settings only those that need none.

    `is_deep`: also a training step, which takes seconds.
    """
    yield _python()
    yield _local_binaries()
    yield from _plugins()
    try:
        settings = load_settings()
    except ConfigurationError as error:
        yield Diagnosis("settings", "bad", str(error))
        return
    yield from _mongodb(settings)
    for check in (_control_plane, _object_store, _disk, run_user, _gpus):
        yield check(settings)
    yield _training(is_deep)


def _python() -> Diagnosis:
    return Diagnosis("python", "ok", f"{sys.version.split()[0]} at {sys.executable}")


def _local_binaries() -> Diagnosis:
    from pod_worker.local.binaries import find_mongod, find_rclone
    from pod_worker.local.errors import LocalStackError

    try:
        return Diagnosis("local stack", "ok", f"mongod {find_mongod()}, rclone {find_rclone()}")
    except LocalStackError as error:
        return Diagnosis("local stack", "warn", str(error))


def _plugins() -> Iterator[Diagnosis]:
    """One for each installed pipeline of another package that cannot be used."""
    from pod_worker.pipelines import PLUGIN_FAULTS

    for fault in PLUGIN_FAULTS:
        yield Diagnosis("pipelines", "warn", fault.message)


def _mongodb(settings: Settings) -> Iterator[Diagnosis]:
    from pod_worker.store.mongo import MongoUrlError, StoreUnreachableError, check_reachable, connect

    if settings.mongodb_url is None:
        fix = "MONGODB_URL is not set and no local stack runs. Set it, or run `pod-worker up`."
        yield Diagnosis("MongoDB", "bad", fix)
        return
    url = settings.mongodb_url.reveal()
    try:
        database = connect(url)
        with database.client:
            check_reachable(database, url)
            yield _describe_mongodb(database, url)
            yield _workers(database)
    except (MongoUrlError, StoreUnreachableError) as error:
        yield Diagnosis("MongoDB", "bad", str(error))


def _workers(database: Mongo) -> Diagnosis:
    """Whether a running worker serves each queue in which runs wait."""
    from pod_worker.pipelines import MODES
    from pod_worker.store.queue.stats import QueueStatsReader
    from pod_worker.store.worker_registry import WorkerRegistry, WorkerState

    alive = [w for w in WorkerRegistry(database).list() if w.state not in (WorkerState.GONE, WorkerState.STOPPED)]
    by_queue = QueueStatsReader(database).read().by_queue
    waiting = {queue: counts["QUEUED"] for queue, counts in by_queue.items() if counts.get("QUEUED")}
    served = {queue for worker in alive for queue in worker.queues or MODES.get(worker.mode, ())}
    counts = ", ".join(f"{n} in {queue}" for queue, n in sorted(waiting.items())) or "none"
    text = f"{len(alive)} running; waiting runs: {counts}"
    if unserved := sorted(waiting.keys() - served):
        fix = "Start one: pod-worker worker --mode all"
        return Diagnosis("workers", "warn", f"{text}. No running worker serves {', '.join(unserved)}. {fix}")
    refusing = [worker for worker in alive if worker.state == WorkerState.UNHEALTHY]
    if refusing:
        reasons = "; ".join(f"{worker.worker_id}: {worker.reason}" for worker in refusing[:3])
        return Diagnosis("workers", "warn", f"{text}. Not able to work: {reasons}")
    return Diagnosis("workers", "ok", text)


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

    url, token = settings.control_plane_url, revealed(settings.control_plane_token)
    if failure := control_plane_check(url, token)():
        return Diagnosis("control plane", "bad", failure.message)
    key = "accepts the key" if token else "requires no key from this machine (CONTROL_PLANE_TOKEN is not set)"
    return Diagnosis("control plane", "ok", f"{url} is ready and {key}")


def _object_store(settings: Settings) -> Diagnosis:
    from minio.error import MinioException
    from urllib3.exceptions import HTTPError

    from pod_worker.local.s3 import S3Access, connect, parse_endpoint

    access, secret = settings.minio_access_key, settings.minio_secret_key
    if not settings.minio_endpoint:
        text = "MINIO_ENDPOINT is not set. Only the control plane needs it; pods upload through presigned URLs."
        return Diagnosis("object store", "ok", text)
    if access is None or secret is None:
        fix = "MINIO_ENDPOINT is set without MINIO_ACCESS_KEY and MINIO_SECRET_KEY. Set both."
        return Diagnosis("object store", "bad", fix)
    host, is_secure = parse_endpoint(settings.minio_endpoint)
    where = f"{settings.minio_endpoint}, bucket {settings.minio_bucket}"
    try:
        with connect(S3Access(host, access.reveal(), secret.reveal(), settings.minio_bucket, is_secure)) as client:
            has_bucket = client.bucket_exists(settings.minio_bucket)
    except (HTTPError, MinioException, ValueError) as error:
        code = getattr(error, "code", None) or type(error).__name__
        fix = "Check MINIO_ENDPOINT, MINIO_ACCESS_KEY, MINIO_SECRET_KEY and MINIO_BUCKET."
        return Diagnosis("object store", "bad", f"{where}: {code}. {fix}")
    if not has_bucket:
        return Diagnosis("object store", "warn", f"{where} does not exist; `pod-worker control` creates it")
    return Diagnosis("object store", "ok", where)


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


def run_user(settings: Settings) -> Diagnosis:
    """Under which user runs would work, and what they could reach."""
    from pod_worker.worker.isolation.child_user import AUTO, NONE, ChildUserError, usable_user

    setting = settings.pod_worker_child_user
    try:
        user = usable_user(setting, [settings.work_dir, settings.spool_dir])
    except ChildUserError as error:
        cause = "runs would work as root and could reach the worker's keys: "
        return Diagnosis(
            "user of runs", *(("warn", f"{cause}{error}") if setting == AUTO else ("bad", str(error)))
        )
    if user:
        return Diagnosis("user of runs", "ok", f"{user.name} ({user.uid}), work folders in {settings.work_dir}")
    if os.geteuid() == 0 and setting == NONE:
        fix = "Unset POD_WORKER_CHILD_USER."
        return Diagnosis("user of runs", "warn", f"runs work as root and can reach the worker's keys. {fix}")
    return Diagnosis("user of runs", "ok", "the worker's own user")


def _gpus(settings: Settings) -> Diagnosis:
    from pod_worker.worker.machine import GpuMonitor, expected_gpus

    gpus = GpuMonitor().list()
    needed = settings.pod_worker_required_gpus
    needed = expected_gpus(os.environ) if needed is None else needed
    if len(gpus) < needed:
        return Diagnosis("GPUs", "bad", f"{needed} expected, {len(gpus)} found. Replace this pod.")
    text = ", ".join(f"{gpu.name} ({gpu.vram_gb:.0f} GB)" for gpu in gpus)
    return Diagnosis("GPUs", "ok", text or "none; trainings run on the CPU")


def _training(is_deep: bool) -> Diagnosis:
    """The training libraries, and whether their versions fit together.

    transformers names the torch it needs.
    """
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = {name: version(name) for name in TRAINING_LIBRARIES}
    except PackageNotFoundError as error:
        cause = f"{error.name} is not installed, so this machine cannot execute trainings"
        return Diagnosis("training", "warn", f"{cause}. Fix: make train (or: pip install -e '.[train]')")
    text = ", ".join(f"{name} {number}" for name, number in found.items())
    if unmet := unmet_requirements(found):
        fix = "Install versions that fit, or use an image with a newer torch."
        return Diagnosis("training", "bad", f"{text}: {'; '.join(unmet)}. {fix}")
    if is_deep:
        return training_step()
    return Diagnosis("training", "ok", f"{text}: versions fit. One training step proves it: doctor --deep")


def training_step() -> Diagnosis:
    """One step of a tiny model, in a process of its own.

    This process must not import torch.
    """
    say("training: one step of a tiny model, usually within 20 s …")
    command = [sys.executable, "-W", "ignore", "-m", "pod_worker.training.environment_check"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TRAINING_STEP_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        cause = f"one step of a tiny model did not end within {TRAINING_STEP_SECONDS} s"
        return Diagnosis("training", "bad", f"{cause}. Replace this pod.")
    is_ok = done.returncode == 0
    lines = (done.stdout if is_ok else done.stderr).strip().splitlines()
    return Diagnosis("training", "ok" if is_ok else "bad", lines[-1] if lines else f"exit code {done.returncode}")


def unmet_requirements(found: Mapping[str, str]) -> list[str]:
    """What the installed libraries require of each other and do not get.

    The form is `transformers requires torch>=2.6`.
    """
    from importlib.metadata import requires

    from packaging.requirements import Requirement

    unmet = []
    for name in found:
        for requirement in map(Requirement, requires(name) or []):
            is_wanted = requirement.marker is None or requirement.marker.evaluate({"extra": "torch"})
            given = found.get(requirement.name)
            if given and is_wanted and not requirement.specifier.contains(given, prereleases=True):
                unmet.append(f"{name} requires {requirement.name}{requirement.specifier}")
    return unmet
