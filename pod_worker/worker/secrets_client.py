"""Asks the control plane for the secrets of a job, before its process starts.

Only a run that names secrets costs a request. It has a third of the lease's time, so that the lease is renewed
after it. No text of a value reaches an error or a log.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from urllib.parse import quote

import msgspec
import requests

from pod_worker.command.params import PIPELINE
from pod_worker.core.backoff import full_jitter
from pod_worker.core.bearer import BearerAuth
from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.lease import Fence
from pod_worker.core.run import Run

REQUEST_SECONDS = 10.0
OTHER_KEY = "sealed_for_another_key"  # the control plane's code


class _TemporaryError(Exception):
    pass


class _Problem(msgspec.Struct):
    code: str = ""
    detail: str = ""


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
    path = f"{url.rstrip('/')}/api/runs/{quote(fence.run_id, safe='')}/secrets"
    with requests.Session() as session:
        session.auth = BearerAuth(token)
        given = _repeated(session, path, fence, seconds)
    if missing := [name for name in names if name not in given]:
        raise RunError(
            FailureCode.INVALID_INPUT,
            f"the run has no value of the secret {', '.join(missing)[:300]}: submit the job with "
            "`pod-worker run`, which seals the values of your environment",
        )
    return {name: given[name] for name in names}


def _repeated(session: requests.Session, path: str, fence: Fence, seconds: float) -> dict[str, str]:
    end, tries, rng = time.monotonic() + seconds, 0, random.Random()
    while True:
        try:
            return _ask(session, path, fence, max(min(REQUEST_SECONDS, end - time.monotonic()), 0.1))
        except _TemporaryError as error:
            tries += 1
            wait = full_jitter(tries, 0.1, 5.0, rng)
            if time.monotonic() + wait > end:
                raise RunError(
                    FailureCode.ENVIRONMENT,
                    f"the secrets of the job cannot be fetched: {error}. Check CONTROL_PLANE_URL of this worker, "
                    "and that the control plane runs",
                ) from None
        time.sleep(wait)


def _ask(session: requests.Session, path: str, fence: Fence, timeout: float) -> dict[str, str]:
    body = {"attempt": fence.attempt, "lease_token": fence.token}
    try:
        answer = session.post(path, json=body, timeout=timeout, allow_redirects=False)
    except requests.RequestException as error:
        raise _TemporaryError(f"no answer from the control plane ({type(error).__name__})") from None
    status = answer.status_code
    if status in (408, 425, 429) or status >= 500:
        raise _TemporaryError(f"the control plane answered {status}")
    try:
        if status == 200:
            return msgspec.json.decode(answer.content, type=dict[str, str])
        problem = msgspec.json.decode(answer.content, type=_Problem)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        problem = _Problem()
    code = FailureCode.INVALID_INPUT if problem.code == OTHER_KEY else FailureCode.ENVIRONMENT
    detail = problem.detail[:500] or f"it answered {status}: check CONTROL_PLANE_URL of this worker"
    raise RunError(code, f"the secrets of the job cannot be fetched: {detail}")
