"""The pod's calls to the artifact routes: one method per route, with backoff.

Answers are values.

Retries temporary errors within the caller's retry budget. A lost lease raises `LeaseLostError`. Any other answer
raises `ArtifactRequestError` with its code. Sleeps end when the run must stop. No message contains the token.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar
from urllib.parse import quote

import msgspec
import requests
import tenacity

from pod_worker.artifacts.transfer import TransientError, host, retry_after, unreachable
from pod_worker.artifacts.wire import (
    AbortRequest,
    ArtifactView,
    DownloadUrl,
    Finalized,
    FinalizeRequest,
    PresignRequest,
    ProblemDetails,
    UploadGrant,
)
from pod_worker.core.backoff import full_jitter, is_temporary_status
from pod_worker.core.credentials.bearer import BearerAuth
from pod_worker.core.failure import FailureCode, Interruption, RunError
from pod_worker.core.lease import Fence, RunWriter
from pod_worker.core.stage import StopSignal

T = TypeVar("T")

_TIMEOUT_SECONDS = (10.0, 60.0)
_SLICE_SECONDS = 0.2  # how soon a sleep notices that the run should stop


class LeaseLostError(Interruption):
    """The attempt no longer holds its run: stop and write nothing more.

    Outside `Exception`, like the other interruptions, so that no stage's `except Exception` carries on.
    """


class ArtifactRequestError(Exception):
    """The control plane rejected the request; repeating it does not help.

    `code` is the problem's.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


@dataclass(frozen=True, slots=True)
class RetryBudget:
    """How long a request is retried before an unavailable store is a failure."""

    total_seconds: float = 900.0
    first_seconds: float = 0.5
    cap_seconds: float = 30.0


class RetryingCaller:
    """Repeats a call while it raises TransientError.

    It waits with exponential backoff and full jitter, and honours Retry-After.

    Calls `on_slow` with the reason after 4, 8, 16 … tries, so that people can see a long wait.
    """

    def __init__(
        self, budget: RetryBudget, rng: random.Random, stop: StopSignal, on_slow: Callable[[str], None]
    ) -> None:
        self._budget = budget
        self._own = threading.local()  # threads have limits of their own
        self._rng = rng
        self._stop = stop
        self._on_slow = on_slow

    def __call__(self, call: Callable[[], T]) -> T:
        return tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(TransientError),
            stop=tenacity.stop_after_delay(getattr(self._own, "seconds", self._budget.total_seconds)),
            wait=self._wait,
            sleep=self.sleep,
            reraise=True,
        )(call)

    @contextmanager
    def with_timeout(self, seconds: float) -> Iterator[None]:
        """Limits how long this thread tries each request in the block."""
        self._own.seconds = min(seconds, self._budget.total_seconds)
        try:
            yield
        finally:
            del self._own.seconds

    def sleep(self, seconds: float) -> None:
        """Raises what the stop signal raises, at most _SLICE_SECONDS late."""
        while seconds > 0:
            self._stop.check()
            time.sleep(min(seconds, _SLICE_SECONDS))
            seconds -= _SLICE_SECONDS

    def _wait(self, state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after if isinstance(error, TransientError) else None
        tries = state.attempt_number
        if tries >= 4 and tries.bit_count() == 1:
            self._on_slow(f"tried {tries} times: {error}")
        budget = self._budget
        return (asked or 0.0) + full_jitter(tries, budget.first_seconds, budget.cap_seconds, self._rng)


class ArtifactApiClient:
    """Speaks for one attempt of one run, or by hand for a run that no worker holds."""

    def __init__(
        self, url: str, token: str | None, writer: RunWriter, session: requests.Session, retrying: RetryingCaller
    ) -> None:
        self._url = url
        self._routes = f"{url.rstrip('/')}/api/runs/{quote(writer.run_id, safe='')}/artifacts"
        self._auth = BearerAuth(token)  # for this one host: presigned URLs carry their own signature
        self._attempt = writer.attempt
        self._lease_token = writer.token if isinstance(writer, Fence) else None
        self._session = session
        self._retrying = retrying

    def presign_put(self, request: PresignRequest) -> UploadGrant:
        ours = replace(request, attempt=self._attempt, lease_token=self._lease_token)
        return msgspec.json.decode(self._call("presign", ours), type=UploadGrant)

    def presign_get(self, key: str) -> DownloadUrl:
        asked = self._call("presign", PresignRequest(action="get", key=key))
        return msgspec.json.decode(asked, type=DownloadUrl)

    def finalize(self, request: FinalizeRequest) -> ArtifactView:
        """Returns when the store's copy is verified and registered.

        It waits however long the reading takes.
        """
        ours = replace(request, attempt=self._attempt, lease_token=self._lease_token)
        while not (answer := self._call("finalize", ours)):
            self._retrying.sleep(1.0)
        return msgspec.json.decode(answer, type=Finalized).artifact

    def abort(self, key: str, upload_id: str) -> None:
        ours = AbortRequest(key=key, upload_id=upload_id, attempt=self._attempt, lease_token=self._lease_token)
        self._call("abort", ours)

    def _call(self, route: str, request: PresignRequest | FinalizeRequest | AbortRequest) -> bytes:
        """The response's body; empty for "not yet".

        Raises TransientError, LeaseLostError, ArtifactRequestError, RunError.
        """
        body = msgspec.json.encode(request)
        return self._retrying(lambda: self._post(f"{self._routes}/{route}", body))

    def _post(self, url: str, body: bytes) -> bytes:
        try:
            answer = self._session.post(
                url,
                data=body,
                headers={"Content-Type": "application/json"},
                auth=self._auth,
                timeout=_TIMEOUT_SECONDS,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise TransientError(f"control plane: {unreachable(self._url, error)}") from None
        if answer.status_code in (202, 204):
            return b""
        if answer.status_code == 200:
            return answer.content
        raise self._error(answer)

    def _error(self, answer: requests.Response) -> BaseException:
        status, where = answer.status_code, host(self._url)
        problem = _problem(answer)
        if problem is not None and problem.code == "fenced":
            return LeaseLostError(problem.detail)
        if is_temporary_status(status):
            reason = problem.detail if problem else f"status {status}"
            return TransientError(f"control plane at {where}: {reason}", retry_after(answer))
        if status in (401, 403):
            return RunError(
                FailureCode.STORAGE, f"the control plane at {where} refused the token: check CONTROL_PLANE_TOKEN"
            )
        if problem is None:
            return RunError(
                FailureCode.STORAGE,
                f"{where} answered {status} to an artifact request: check CONTROL_PLANE_URL",
            )
        return ArtifactRequestError(problem.code, problem.detail)


def _problem(answer: requests.Response) -> ProblemDetails | None:
    try:
        return msgspec.json.decode(answer.content, type=ProblemDetails)
    except msgspec.MsgspecError:
        return None
