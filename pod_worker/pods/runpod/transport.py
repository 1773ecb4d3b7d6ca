"""HTTP to a provider: one place for the key, timeouts, rate limits and the question what may be sent twice.

GET and DELETE are retried on lost replies and 5xx. A POST is sent again only where the first one certainly did
nothing: the connection was never made, or the answer was 429. Everything else is for the caller to decide.
The API key travels in a header, never in a URL, and is cut out of every text that leaves this module.
"""

from __future__ import annotations

import email.utils
import json
import logging
import random
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
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

from pod_worker.core.bearer import BearerAuth
from pod_worker.core.clock import Clock
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
    """The raw body, cut short, for error messages."""
    headers: Mapping[str, str]

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300


@dataclass(frozen=True, slots=True)
class HttpRetryPolicy:
    """How long one call may take and how often it may be sent. Seconds."""

    connect_seconds: float = 10.0
    read_seconds: float = 60.0
    attempts: int = 4
    first_pause_seconds: float = 0.5
    longest_pause_seconds: float = 15.0
    total_wait_seconds: float = 90.0
    """Sum of all pauses, Retry-After included; a longer request to wait is handed to the caller."""


DEFAULT_PATIENCE = HttpRetryPolicy()


class Transport:
    def __init__(
        self,
        base_url: str,
        api_key: str,
        *,
        clock: Clock,
        sleep: Callable[[float], None],
        rng: random.Random,
        patience: HttpRetryPolicy = DEFAULT_PATIENCE,
    ) -> None:
        if not api_key:
            raise ValueError("no RunPod API key; set RUNPOD_API_KEY (console: Settings, API Keys)")
        self.base_url = base_url.rstrip("/")
        self._key = api_key
        self._clock = clock
        self._sleep = sleep
        self._rng = rng
        self._patience = patience
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
        """One logical request. Returns the final reply whatever its status (429 and retried 5xx included).

        `repeatable` says that sending it twice does no harm; by default GET and DELETE are. Raises Unreachable
        where no reply came, ServerError for a body over the limit, RateLimitedError when the API asks for a longer
        wait than `total_wait_seconds` leaves.
        """
        repeatable = method in IDEMPOTENT if repeatable is None else repeatable
        waited = 0.0
        for attempt in range(1, self._patience.attempts + 1):
            last = attempt == self._patience.attempts
            try:
                reply = self._send(method, path, body, params)
            except UnreachableError as lost:
                if last or (lost.sent and not repeatable):
                    raise
                pause = self._backoff(attempt)
                log.info("%s %s: no reply (%s), sending again in %.1f s", method, path, lost, pause)
            else:
                if not (reply.status == 429 or (reply.status >= 500 and repeatable)):
                    return reply
                pause = self._retry_delay(reply, attempt)
                if last or waited + pause > self._patience.total_wait_seconds:
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
        """The response with its body unread; any loss on the way, also while the block reads, is Unreachable."""
        timeout = (self._patience.connect_seconds, read_seconds or self._patience.read_seconds)
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
        except requests.RequestException as lost:
            raise UnreachableError(
                self._redact(f"{method} {path} at {self.base_url}: {_cause(lost)}"), sent=_may_have_been_sent(lost)
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
        """Lines of a long response, newline cut off; a Reply as the only item where the status is not 2xx.

        Ends where the server closes, after `quiet_seconds` without a byte, or at the first byte that comes after
        `total_seconds`. Raises Unreachable on a broken one.
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
        """The pause before a broken stream is opened again."""
        self._sleep(self._backoff(failures))

    def _retry_delay(self, reply: HttpReply, attempt: int) -> float:
        asked = retry_after(reply.headers, self._clock) if reply.status in (429, 503) else None
        return self._backoff(attempt) if asked is None else asked

    def _backoff(self, attempt: int) -> float:
        """Exponential with full jitter."""
        ceiling = min(
            self._patience.longest_pause_seconds, self._patience.first_pause_seconds * 2.0 ** (attempt - 1)
        )
        return ceiling * self._rng.random()


def _lines(response: requests.Response, is_over: Callable[[], bool]) -> Iterator[str]:
    """Whole lines as they arrive. `read1` returns what is there; iter_lines would wait for a full block."""
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
    """An id as one path segment: an odd one must not reach another address."""
    if not identifier:
        raise ValueError("the pod id is empty; `pod-worker pods list` shows the ids")
    return quote(identifier, safe="")


def retry_after(headers: Mapping[str, str], clock: Clock) -> float | None:
    """Seconds to wait: Retry-After (number or HTTP date), else the longest exhausted window of RateLimit."""
    asked = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d+(\.\d+)?", asked):
        return float(asked)
    if asked:
        try:
            until: datetime = email.utils.parsedate_to_datetime(asked)
            return float(max(0.0, (until - clock.now()).total_seconds()))
        except (ValueError, TypeError):
            pass
    waits = [float(t) for t in re.findall(r"r=0;\s*t=(\d+)", headers.get("RateLimit", ""))]
    return max(waits) if waits else None


def _cause(lost: requests.RequestException) -> str:
    """urllib3's nested repr holds object addresses; the innermost reason is what helps."""
    inner = lost.args[0] if lost.args else lost
    reason = getattr(inner, "reason", inner)
    return f"{type(lost).__name__}: {reason}"


def _may_have_been_sent(lost: requests.RequestException) -> bool:
    inner = lost.args[0] if lost.args else None
    reason = inner.reason if isinstance(inner, MaxRetryError) else inner
    return not isinstance(reason, NewConnectionError | ConnectTimeoutError | NameResolutionError)
