"""JSON over HTTP from an index of literature, within limits of rate and size.

The public indexes answer 429 for minutes when many clients share an address. A run must neither wait for them
without a limit nor fail because of them: `RunError(NETWORK)` lets the caller go on without citations.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import requests

from pod_worker.core.backoff import full_jitter, retry_after_seconds
from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.research.literature import Work
from pod_worker.core.run import Json
from pod_worker.core.stage import StopSignal

BODY_LIMIT_BYTES = 4 * 2**20
QUERY_LIMIT = 300  # characters; longer queries match nothing
RESULT_LIMIT = 50
_POLL_SECONDS = 0.2
_RETRIED = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexLimits:
    """How often and how long an index is asked."""

    interval_seconds: float = 1.1  # between two requests; both indexes allow about one per second without a key
    attempts: int = 4
    connect_seconds: float = 5.0
    read_seconds: float = 20.0
    first_backoff_seconds: float = 2.0
    longest_wait_seconds: float = 30.0  # of one pause, whatever Retry-After asks for


class HttpIndex:
    """One index of literature behind HTTP."""

    def __init__(
        self,
        name: str,
        *,
        limits: IndexLimits,
        stop: StopSignal,
        headers: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self.name = name
        self._limits = limits
        self._stop = stop
        self._clock = clock
        self._rng = rng or random.Random()
        self._lock = threading.Lock()
        self._next_at = -float("inf")
        self._session = requests.Session()
        self._session.headers.update(
            {"User-Agent": "pod_worker", "Accept": "application/json"} | dict(headers or {})
        )

    def works(
        self,
        query: str,
        limit: int,
        ask: Callable[[int], list[Json]],
        read: Callable[[dict[str, Json]], Work | None],
    ) -> tuple[Work, ...]:
        """At most `limit` works, from the entries that `ask` gets for that count.

        Nothing is asked for an empty query. An entry that is no work is left out.
        """
        count = min(limit, RESULT_LIMIT)
        if count < 1 or not query.strip():
            return ()
        works = (read(as_object(entry)) for entry in ask(count))
        return tuple(work for work in works if work is not None)[:count]

    def get(self, url: str, parameters: Mapping[str, str]) -> Json:
        """The decoded answer.

        Raises RunError(NETWORK) after the last attempt or for an answer that is no JSON.
        """
        for attempt in range(1, self._limits.attempts + 1):
            answer = self._request(url, parameters)
            if not isinstance(answer, _Retry):
                return answer
            if attempt < self._limits.attempts:
                self._pause(self._backoff(attempt, answer.after_seconds))
        raise RunError(
            FailureCode.NETWORK,
            f"{self.name} did not answer {self._limits.attempts} requests; the last one: {answer.problem}",
        )

    def _request(self, url: str, parameters: Mapping[str, str]) -> Json | _Retry:
        self._take_turn()
        timeouts = (self._limits.connect_seconds, self._limits.read_seconds)
        try:
            with self._session.get(url, params=dict(parameters), timeout=timeouts, stream=True) as response:
                if response.status_code in _RETRIED:
                    header = response.headers.get("Retry-After")
                    return _Retry(f"status {response.status_code}", retry_after_seconds(header, datetime.now(UTC)))
                if response.status_code != 200:
                    raise RunError(
                        FailureCode.NETWORK, f"{self.name} answered {response.status_code} for {response.url}"
                    )
                body = self._read(response)
        except requests.RequestException as error:
            return _Retry(f"{type(error).__name__}: {error}"[:300], None)
        try:
            return json.loads(body)
        except ValueError as error:
            raise RunError(FailureCode.NETWORK, f"{self.name} sent an answer that is no JSON: {error}") from None

    def _read(self, response: requests.Response) -> bytes:
        body = bytearray()
        started = self._clock()
        for block in response.iter_content(64 * 1024):
            body += block
            self._stop.check()
            if len(body) > BODY_LIMIT_BYTES:
                raise RunError(FailureCode.NETWORK, f"{self.name} sent more than {BODY_LIMIT_BYTES} bytes")
            if self._clock() - started > 3 * self._limits.read_seconds:
                raise requests.Timeout("the answer arrives too slowly")
        return bytes(body)

    def _backoff(self, attempt: int, asked_seconds: float | None) -> float:
        jitter = full_jitter(
            attempt - 1, self._limits.first_backoff_seconds, self._limits.longest_wait_seconds, self._rng
        )
        return min(self._limits.longest_wait_seconds, jitter if asked_seconds is None else asked_seconds)

    def _take_turn(self) -> None:
        """Reserve the next moment for a request, and wait for it."""
        with self._lock:
            now = self._clock()
            at = max(now, self._next_at)
            self._next_at = at + self._limits.interval_seconds
        self._pause(at - now)

    def _pause(self, seconds: float) -> None:
        end = self._clock() + seconds
        self._stop.check()
        while (left := end - self._clock()) > 0:
            time.sleep(min(left, _POLL_SECONDS))
            self._stop.check()


@dataclass(frozen=True, slots=True)
class _Retry:
    problem: str
    after_seconds: float | None  # what the server asks for


def shorten_query(query: str) -> str:
    """One line of at most `QUERY_LIMIT` characters."""
    return " ".join(query.split())[:QUERY_LIMIT]


def as_list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


def as_object(value: Json) -> dict[str, Json]:
    return value if isinstance(value, dict) else {}
