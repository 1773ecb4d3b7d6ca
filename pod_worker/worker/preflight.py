"""Checks that this pod can do the work, before the first claim.

Each check returns a failure with its cause and fix, or None. A pod with a failure claims nothing and reports why.
The original's pods fell back to the CPU and let whole runs fail one by one (research: S19).
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import requests
from pymongo.errors import PyMongoError

from pod_worker.core.credentials.bearer import BearerAuth, InvalidTokenError
from pod_worker.core.payload import GpuShortage
from pod_worker.store.mongo import Mongo, StoreUnreachableError, check_reachable, redacted_text
from pod_worker.worker.machine import GIB, free_bytes

CLOCK_SKEW_SECONDS = 30.0
GPU_PROBE_SECONDS = 120.0
GPU_PROBE = "import torch; x = torch.ones(1024, device='cuda'); assert float((x + x).sum()) == 2048.0"


@dataclass(frozen=True, slots=True)
class PreflightFailure:
    check: str
    message: str  # the cause and the fix
    shortage: GpuShortage | None = None


Check = Callable[[], PreflightFailure | None]


def run_checks(checks: list[Check]) -> list[PreflightFailure]:
    return [problem for check in checks if (problem := check())]


def store_check(database: Mongo, url: str, prepare: Callable[[Mongo], None] | None = None) -> Check:
    """A check that the store can be used.

    `prepare` makes the indexes; a worker without them would scan the queue at every poll.
    """

    def check() -> PreflightFailure | None:
        try:
            check_reachable(database, url)
            if prepare:
                prepare(database)
        except StoreUnreachableError as error:
            return PreflightFailure("store", str(error))
        except PyMongoError as error:
            return PreflightFailure(
                "store", f"MongoDB did not make the indexes: {redacted_text(error, url)[:300]}"
            )
        return None

    return check


def clock_check(database: Mongo, now: Callable[[], datetime]) -> Check:
    """Leases go by the server's clock, but logs and signatures by ours."""

    def check() -> PreflightFailure | None:
        try:
            server = database.command("hello")["localTime"]
        except PyMongoError:
            return None  # the store check reports it
        server = server if server.tzinfo else server.replace(tzinfo=UTC)
        skew = abs((now() - server).total_seconds())
        if skew <= CLOCK_SKEW_SECONDS:
            return None
        return PreflightFailure(
            "clock", f"this machine's clock is {skew:.0f} s off MongoDB's; set it (chrony, ntpdate)"
        )

    return check


def disk_check(path: Path, needed_gb: float) -> Check:
    def check() -> PreflightFailure | None:
        free = free_bytes(path) / GIB
        if free >= needed_gb:
            return None
        return PreflightFailure(
            "disk",
            f"only {free:.1f} GB free at {path}, {needed_gb:g} GB needed; free some, or point "
            "POD_WORKER_WORK_DIR at a larger disk",
        )

    return check


def gpu_check(needed: int, available: int, probe: Callable[[], str | None] | None = None) -> Check:
    """A check that the GPUs are there and work.

    `probe` runs a CUDA operation in a process of its own and returns what went wrong.
    """

    def check() -> PreflightFailure | None:
        if available < needed:
            shortage = GpuShortage(
                required_gpus=needed, available_gpus=available, message="GPUs missing on this pod"
            )
            return PreflightFailure(
                "gpu",
                f"{needed} GPU(s) expected, {available} found; terminate this pod and rent another, or set "
                "POD_WORKER_REQUIRED_GPUS=0 to work without",
                shortage,
            )
        wrong = probe() if probe and needed > 0 else None
        if wrong:
            shortage = GpuShortage(required_gpus=needed, available_gpus=0, message=wrong)
            return PreflightFailure("gpu", f"the GPU does not compute: {wrong}; terminate this pod", shortage)
        return None

    return check


def probe_cuda() -> str | None:
    """Runs in a process of its own, which a broken driver may hang or crash."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", GPU_PROBE],
            capture_output=True,
            text=True,
            timeout=GPU_PROBE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"a CUDA operation did not end within {GPU_PROBE_SECONDS:.0f} s"
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"a CUDA operation ended with code {done.returncode}"


def control_plane_check(url: str, token: str | None = None) -> Check:
    """The control plane is ready and accepts the token.

    /readyz asks for none, so an API route is asked too.
    """
    base = url.rstrip("/")

    def check() -> PreflightFailure | None:
        try:
            answer = requests.get(f"{base}/readyz", timeout=10)
            key = requests.get(f"{base}/api/runs", params={"limit": 1}, auth=BearerAuth(token), timeout=10)
        except InvalidTokenError as error:
            return PreflightFailure("control plane", str(error))
        except requests.RequestException as error:
            return PreflightFailure(
                "control plane",
                f"{url} does not answer ({type(error).__name__}); check CONTROL_PLANE_URL and that "
                "`pod-worker control` is running there",
            )
        if key.status_code in (401, 403):
            given = (
                "refuses CONTROL_PLANE_TOKEN" if token else "requires a key, and CONTROL_PLANE_TOKEN is not set"
            )
            return PreflightFailure(
                "control plane",
                f"{url} {given} (HTTP {key.status_code}); set CONTROL_PLANE_TOKEN to the token that the control "
                "plane was started with",
            )
        if answer.ok:
            return None
        return PreflightFailure("control plane", f"{url}/readyz answers {answer.status_code}: {answer.text[:200]}")

    return check
