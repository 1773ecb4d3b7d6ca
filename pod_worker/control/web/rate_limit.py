"""One token bucket per client: a runaway emitter slows down no other client."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable

from fastapi import Request

from pod_worker.control.web.problem import ProblemError

CLIENTS = 10_000


class ClientRateLimit:
    """Limits each client address.

    `per_second` requests on average, `burst` at once. For one event loop.
    """

    def __init__(self, per_second: float, burst: int, monotonic: Callable[[], float]) -> None:
        self._per_second = per_second
        self._burst = burst
        self._monotonic = monotonic
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def check(self, request: Request) -> None:
        """Raises ProblemError 429."""
        client = request.client.host if request.client else "?"
        wait = self.wait_seconds(client)
        if wait > 0:
            detail = f"more than {self._per_second:g} requests a second: slow down or send larger batches"
            raise ProblemError(429, "rate_limited", detail, headers={"Retry-After": str(math.ceil(wait))})

    def wait_seconds(self, client: str) -> float:
        """0 takes a token; any other number is the time until there is one."""
        now = self._monotonic()
        tokens, since = self._buckets.pop(client, (float(self._burst), now))
        tokens = min(self._burst, tokens + (now - since) * self._per_second)
        is_free = tokens >= 1
        self._buckets[client] = (tokens - 1 if is_free else tokens, now)
        while len(self._buckets) > CLIENTS:
            self._buckets.popitem(last=False)
        return 0.0 if is_free else (1 - tokens) / self._per_second
