"""HTTP to a provider: API key, timeouts, rate limits and retries.

GET and DELETE are retried after lost replies and 5xx. A POST is sent again only if the first one had no effect:
no connection was made, or the reply was 429. Other cases are left to the caller. The API key is sent in a
header, never in a URL, and is removed from every text that leaves this module.
"""

from __future__ import annotations

import json
import logging
import random
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import quote

import requests
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    MaxRetryError,
    NameResolutionError,
    NewConnectionError,
    ReadTimeoutError,
)

from pod_worker.core.backoff import full_jitter, retry_after_seconds
from pod_worker.core.clock import Clock
from pod_worker.core.credentials.bearer import BearerAuth
from pod_worker.pods.errors import RateLimitedError, ServerError, UnreachableError

log = logging.getLogger(__name__)

Json = Mapping[str, object]

IDEMPOTENT = frozenset({"GET", "DELETE"})
MAX_BODY_BYTES = 64 * 1024 * 1024
MAX_LINE_BYTES = 1024 * 1024
DETAIL_LENGTH = 400


@dataclass(frozen=True, slots=True)
class HttpReply:
    status: int
    body: object
    """Decoded JSON, or None where there was none."""
    text: str
    """The raw body, truncated, for error messages."""
    headers: Mapping[str, str]

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300


@dataclass(frozen=True, slots=True)
class HttpRetryPolicy:
    """Timeouts and number of attempts of one call. Seconds."""

    connect_seconds: float = 10.0
    read_seconds: float = 60.0
    attempts: int = 4
    first_pause_seconds: float = 0.5
    longest_pause_seconds: float = 15.0
    total_wait_seconds: float = 90.0
    """Sum of all pauses, Retry-After included; for a longer wait the caller gets RateLimitedError."""


DEFAULT_RETRY_POLICY = HttpRetryPolicy()


class Transport:
    def __init__(
        self,
        base_url: str,
        api_key: str,
        *,
        clock: Clock,
        sleep: Callable[[float], None],
        rng: random.Random,
        retry_policy: HttpRetryPolicy = DEFAULT_RETRY_POLICY,
    ) -> None:
        if not api_key:
            raise ValueError("no RunPod API key; set RUNPOD_API_KEY (console: Settings, API Keys)")
        self.base_url = base_url.rstrip("/")
        self._shown_url = re.sub(r"//[^/@]*@", "//***@", self.base_url)
        self._key = api_key
        self._clock = clock
        self._sleep = sleep
        self._rng = rng
        self._retry_policy = retry_policy
        self._session = requests.Session()
        self._session.auth = BearerAuth(api_key, "RUNPOD_API_KEY")
        self._session.headers["User-Agent"] = "pod-worker"

    def close(self) -> None:
        self._session.close()

    def call(
        self,
        method: str,
        path: str,
        *,
        body: Json | None = None,
        params: Json | None = None,
        repeatable: bool | None = None,
    ) -> HttpReply:
        """One logical request. Returns the final reply, whatever its status.

        `repeatable`: the request may be sent twice; by default GET and DELETE. Raises UnreachableError without a
        reply, ServerError for a body over the limit, RateLimitedError for a wait beyond `total_wait_seconds`.
        """
        repeatable = method in IDEMPOTENT if repeatable is None else repeatable
        waited = 0.0
        for attempt in range(1, self._retry_policy.attempts + 1):
            last = attempt == self._retry_policy.attempts
            try:
                reply = self._send(method, path, body, params)
            except UnreachableError as error:
                if last or (error.sent and not repeatable):
                    raise
                pause = self._backoff(attempt)
                log.info("%s %s: no reply (%s), sending again in %.1f s", method, path, error, pause)
            else:
                if not (reply.status == 429 or (reply.status >= 500 and repeatable)):
                    return reply
                pause = self._retry_delay(reply, attempt)
                if last or waited + pause > self._retry_policy.total_wait_seconds:
                    return self._give_up(method, path, reply, pause)
                log.info("%s %s: answered %d, sending again in %.1f s", method, path, reply.status, pause)
            waited += pause
            self._sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    @staticmethod
    def _give_up(method: str, path: str, reply: HttpReply, pause: float) -> HttpReply:
        if reply.status == 429:
            raise RateLimitedError(
                f"{method} {path}: rate limited; wait {pause:.0f} s and try again", wait_seconds=pause
            )
        return reply

    def _send(self, method: str, path: str, body: Json | None, params: Json | None) -> HttpReply:
        with self._response(method, path, body=body, params=params) as response:
            return self._decode(response)

    @contextmanager
    def _response(
        self,
        method: str,
        path: str,
        *,
        body: Json | None = None,
        params: Json | None = None,
        headers: Mapping[str, str] | None = None,
        read_seconds: float | None = None,
    ) -> Iterator[requests.Response]:
        """The response, body unread.

        A connection error, also while the block reads, is UnreachableError.
        """
        timeout = (self._retry_policy.connect_seconds, read_seconds or self._retry_policy.read_seconds)
        try:
            with self._session.request(
                method,
                self.base_url + path,
                params={key: str(value) for key, value in params.items()} if params else None,
                json=body,
                headers=headers,
                timeout=timeout,
                stream=True,
                allow_redirects=False,
            ) as response:
                yield response
        except requests.RequestException as error:
            raise UnreachableError(
                self._redact(f"{method} {path} at {self._shown_url}: {_cause(error)}"),
                sent=_may_have_been_sent(error),
            ) from None

    def _decode(self, response: requests.Response) -> HttpReply:
        raw = bytearray()
        for chunk in response.iter_content(64 * 1024):
            raw += chunk
            if len(raw) > MAX_BODY_BYTES:
                raise ServerError(f"the reply is over {MAX_BODY_BYTES >> 20} MiB", status=response.status_code)
        text = raw.decode("utf-8", "replace").replace(self._key, "***")
        try:
            body: object = json.loads(text) if text else None
        except ValueError:
            body = None
        return HttpReply(response.status_code, body, text[:DETAIL_LENGTH], response.headers)

    def stream(
        self, path: str, *, params: Json, headers: Mapping[str, str], quiet_seconds: float, total_seconds: float
    ) -> Iterator[str | HttpReply]:
        """Lines of a long response without newlines.

        An HttpReply as the only item if the status is not 2xx.

        Ends when the server closes, after `quiet_seconds` without a byte, or at the first byte after
        `total_seconds`. Raises UnreachableError when the connection breaks.
        """
        accept = {"Accept": "text/event-stream", **headers}
        with self._response("GET", path, params=params, headers=accept, read_seconds=quiet_seconds) as response:
            if response.status_code >= 300:
                yield self._decode(response)
                return
            start = self._clock.monotonic()
            yield from _lines(response, lambda: self._clock.monotonic() - start > total_seconds)

    def _redact(self, text: str) -> str:
        return text[: DETAIL_LENGTH * 4].replace(self._key, "***")[:DETAIL_LENGTH]

    def pause_before_reconnect(self, failures: int) -> None:
        """Pause before a broken stream is opened again."""
        self._sleep(self._backoff(failures))

    def _retry_delay(self, reply: HttpReply, attempt: int) -> float:
        asked = retry_after(reply.headers, self._clock) if reply.status in (429, 503) else None
        return self._backoff(attempt) if asked is None else asked

    def _backoff(self, attempt: int) -> float:
        policy = self._retry_policy
        return full_jitter(attempt - 1, policy.first_pause_seconds, policy.longest_pause_seconds, self._rng)


def _lines(response: requests.Response, is_over: Callable[[], bool]) -> Iterator[str]:
    """Whole lines as they arrive.

    `read1` returns available bytes; iter_lines waits for a full block.
    """
    rest = b""
    while not is_over():
        try:
            chunk = response.raw.read1(64 * 1024, decode_content=True)
        except ReadTimeoutError:
            return
        except HTTPError as broken:
            raise requests.ConnectionError(broken) from broken
        if not chunk:
            return
        *whole, rest = (rest + chunk).split(b"\n")
        if len(rest) > MAX_LINE_BYTES:
            rest = rest[:MAX_LINE_BYTES]
        for line in whole:
            yield line.rstrip(b"\r").decode("utf-8", "replace")


def path_segment(identifier: str) -> str:
    """An id as one quoted path segment, so that it cannot address another resource."""
    if not identifier:
        raise ValueError("the pod id is empty; `pod-worker pods list` shows the ids")
    return quote(identifier, safe="")


def retry_after(headers: Mapping[str, str], clock: Clock) -> float | None:
    """Seconds to wait: Retry-After, else the longest exhausted window of RateLimit."""
    requested = retry_after_seconds(headers.get("Retry-After"), clock.now())
    if requested is not None:
        return requested
    waits = [float(seconds) for seconds in re.findall(r"r=0;\s*t=(\d+)", headers.get("RateLimit", ""))]
    return max(waits, default=None)


def _cause(error: requests.RequestException) -> str:
    """The innermost reason; urllib3's nested repr contains object addresses."""
    inner = error.args[0] if error.args else error
    reason = getattr(inner, "reason", inner)
    return f"{type(error).__name__}: {reason}"


def _may_have_been_sent(error: requests.RequestException) -> bool:
    inner = error.args[0] if error.args else None
    reason = inner.reason if isinstance(inner, MaxRetryError) else inner
    return not isinstance(reason, NewConnectionError | ConnectTimeoutError | NameResolutionError)
