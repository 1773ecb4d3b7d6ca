"""Requests to the control plane that are repeated while a repetition may help.

For what is asked once: a workdir, an upload, the secrets of a job. No message contains the token.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

import msgspec
import requests

from pod_worker.core.backoff import full_jitter, is_temporary_status
from pod_worker.core.credentials.bearer import BearerAuth
from pod_worker.core.stop_signal import StopSignal

T = TypeVar("T")
SLICE_SECONDS = 0.2  # how soon a wait notices that the run should stop
DETAIL_CHARACTERS = 500


class TemporaryRequestError(Exception):
    """Repeating the request may help."""


class RefusedRequestError(Exception):
    """Repeating the request does not help; `code` is the problem's, or empty."""

    def __init__(self, status: int, detail: str, code: str) -> None:
        super().__init__(detail)
        self.status, self.detail, self.code = status, detail, code


class _Problem(msgspec.Struct):
    detail: str = ""
    code: str = ""


class ControlPlaneClient:
    def __init__(self, url: str, token: str | None) -> None:
        self.url = url.rstrip("/")
        self._session = requests.Session()
        self._auth = BearerAuth(token)

    def request(
        self, method: str, path: str, body: bytes | None = None, *, timeout: float | tuple[float, float]
    ) -> bytes:
        """The body of a 200. Raises TemporaryRequestError, RefusedRequestError."""
        try:
            answer = self._session.request(
                method,
                self.url + path,
                data=body,
                headers={"Content-Type": "application/json"},
                auth=self._auth,
                timeout=timeout,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise TemporaryRequestError(f"no answer from the control plane ({type(error).__name__})") from None
        if answer.status_code == 200:
            return answer.content
        problem = _problem(answer)
        if is_temporary_status(answer.status_code):
            text = f"the control plane answered {answer.status_code}"
            raise TemporaryRequestError(f"{text}: {problem.detail}" if problem.detail else text)
        raise RefusedRequestError(answer.status_code, problem.detail[:DETAIL_CHARACTERS], problem.code)


def repeat(
    call: Callable[[], T],
    seconds: float,
    *,
    first_seconds: float,
    cap_seconds: float,
    stop: StopSignal | None = None,
) -> T:
    """`call()`, repeated after TemporaryRequestError.

    It waits with exponential backoff and full jitter. The last error is raised when the next try would begin
    after `seconds`. Raises also what `stop` raises.
    """
    rng, end, tries = random.Random(), time.monotonic() + seconds, 0
    while True:
        if stop is not None:
            stop.check()
        try:
            return call()
        except TemporaryRequestError:
            tries += 1
            wait = full_jitter(tries, first_seconds, cap_seconds, rng)
            if time.monotonic() + wait > end:
                raise
        _sleep(wait, stop)


def _sleep(seconds: float, stop: StopSignal | None) -> None:
    while seconds > 0:
        if stop is not None:
            stop.check()
        time.sleep(min(seconds, SLICE_SECONDS))
        seconds -= SLICE_SECONDS


def _problem(answer: requests.Response) -> _Problem:
    try:
        return msgspec.json.decode(answer.content, type=_Problem)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _Problem()
