"""Per-user request quotas in three windows, and v2's headers for them.

The headers follow the IETF ratelimit-headers draft. Windows are in real time, because clients wait in real time.
The defaults are high; strict quotas are for tests of clients. RunPod's documented example is 60, 3000 and 50000.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

WINDOWS = (("minute", 60), ("hour", 3600), ("day", 86_400))


@dataclass(frozen=True, slots=True)
class Quotas:
    minute: int = 1_000_000
    hour: int = 10_000_000
    day: int = 100_000_000

    @classmethod
    def parse(cls, text: str) -> Quotas:
        """`60/3000/50000`: requests per minute, hour and day."""
        try:
            minute, hour, day = (int(part) for part in text.split("/"))
        except ValueError:
            raise ValueError(f"{text!r} is not minute/hour/day quotas such as 60/3000/50000") from None
        return cls(minute, hour, day)

    @property
    def policy(self) -> str:
        return ", ".join(f'"{name}";q={getattr(self, name)};w={width}' for name, width in WINDOWS)


@dataclass(slots=True)
class Usage:
    started: dict[str, float] = field(default_factory=dict)
    used: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class QuotaDecision:
    """`exceeded` names the exhausted window; it ends after `retry_after` seconds."""

    header: str
    exceeded: str | None
    retry_after: int


class RateLimiter:
    def __init__(self, quotas: Quotas, monotonic: Callable[[], float]) -> None:
        self.quotas = quotas
        self._monotonic = monotonic
        self._usage: dict[str, Usage] = {}

    def check(self, user: str) -> QuotaDecision:
        """Count one request of this user; rejected requests do not count."""
        usage, now = self._usage.setdefault(user, Usage()), self._monotonic()
        left: dict[str, tuple[int, int]] = {}
        for name, width in WINDOWS:
            start = usage.started.get(name)
            if start is None or now - start >= width:
                usage.started[name], usage.used[name] = now, 0
            reset = max(1, -(-(usage.started[name] + width - now) // 1))
            left[name] = (getattr(self.quotas, name) - usage.used[name], int(reset))
        full = [(reset, name) for name, (remaining, reset) in left.items() if remaining <= 0]
        if not full:
            for name, _ in WINDOWS:
                usage.used[name] += 1
        spent = 0 if full else 1
        state = ", ".join(f'"{name}";r={max(0, r - spent)};t={t}' for name, (r, t) in left.items())
        wait, exceeded = max(full, default=(0, None))
        return QuotaDecision(state, exceeded, wait)
