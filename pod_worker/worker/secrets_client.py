"""Asks the control plane for the secrets of a job, before its process starts.

Only a run that names secrets costs a request. It has a third of the lease's time, so that the lease is renewed
after it. No text of a value reaches an error or a log.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from urllib.parse import quote

import msgspec

from pod_worker.command.params import PIPELINE
from pod_worker.control_plane_client import (
    ControlPlaneClient,
    RefusedRequestError,
    TemporaryRequestError,
    repeat,
)
from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.lease import Fence
from pod_worker.core.run import Run

REQUEST_SECONDS = 10.0
OTHER_KEY = "sealed_for_another_key"  # the control plane's code


def secret_names(run: Run) -> list[str]:
    """The secrets that the run's parameters name."""
    names = run.params.get("secrets") if run.pipeline == PIPELINE else None
    return [str(name) for name in names] if isinstance(names, list) else []


def fetch_secrets(
    url: str, token: str | None, fence: Fence, names: Sequence[str], seconds: float
) -> dict[str, str]:
    """The values by name; tried for `seconds`.

    Raises RunError: ENVIRONMENT when the control plane does not give them, INVALID_INPUT when the run does not
    have them.
    """
    client = ControlPlaneClient(url, token)
    end = time.monotonic() + seconds
    try:
        given = repeat(lambda: _ask(client, fence, end), seconds, first_seconds=0.1, cap_seconds=5.0)
    except TemporaryRequestError as error:
        raise RunError(
            FailureCode.ENVIRONMENT,
            f"the secrets of the job cannot be fetched: {error}. Check CONTROL_PLANE_URL of this worker, and that "
            "the control plane runs",
        ) from None
    if missing := [name for name in names if name not in given]:
        raise RunError(
            FailureCode.INVALID_INPUT,
            f"the run has no value of the secret {', '.join(missing)[:300]}: submit the job with "
            "`pod-worker run`, which seals the values of your environment",
        )
    return {name: given[name] for name in names}


def _ask(client: ControlPlaneClient, fence: Fence, end: float) -> dict[str, str]:
    path = f"/api/runs/{quote(fence.run_id, safe='')}/secrets"
    body = msgspec.json.encode({"attempt": fence.attempt, "lease_token": fence.token})
    timeout = max(min(REQUEST_SECONDS, end - time.monotonic()), 0.1)
    code, detail = FailureCode.ENVIRONMENT, "it answered 200: check CONTROL_PLANE_URL of this worker"
    try:
        return msgspec.json.decode(client.request("POST", path, body, timeout=timeout), type=dict[str, str])
    except RefusedRequestError as error:
        code = FailureCode.INVALID_INPUT if error.code == OTHER_KEY else code
        detail = error.detail or f"it answered {error.status}: check CONTROL_PLANE_URL of this worker"
    except msgspec.MsgspecError:
        pass
    raise RunError(code, f"the secrets of the job cannot be fetched: {detail}")
