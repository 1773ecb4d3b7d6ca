"""The virtual clock: real time multiplied by a speed, plus explicit steps.

At speed 0 it advances by steps only, so a week of billing takes as long as one request. It never runs backwards.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from pod_worker.fake_runpod.timestamps import from_seconds


class VirtualClock:
    def __init__(
        self, start_ns: int, speed: float = 1.0, *, monotonic_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        """`start_ns`: the virtual instant it begins at.

        `speed`: virtual seconds per real second, 0 = frozen.
        """
        self._monotonic_ns = monotonic_ns
        self._base = start_ns
        self._since = monotonic_ns()
        self._speed = _checked(speed)

    @property
    def speed(self) -> float:
        return self._speed

    def now_ns(self) -> int:
        return self._base + int((self._monotonic_ns() - self._since) * self._speed)

    def step(self, seconds: float) -> int:
        """Advance by virtual seconds; returns the new instant."""
        if seconds < 0:
            raise ValueError("the virtual clock cannot run backwards: give seconds >= 0")
        self._rebase(self.now_ns() + from_seconds(seconds))
        return self._base

    def set_speed(self, speed: float) -> None:
        self._rebase(self.now_ns())
        self._speed = _checked(speed)

    def real_seconds(self, virtual_seconds: float) -> float:
        """Real seconds of a virtual duration; at speed 0 both are equal."""
        return virtual_seconds / self._speed if self._speed else virtual_seconds

    def _rebase(self, instant: int) -> None:
        self._base = instant
        self._since = self._monotonic_ns()


def _checked(speed: float) -> float:
    if not 0 <= speed <= 1_000_000:
        raise ValueError(f"speed {speed} is out of range: virtual seconds per real second, 0 to 1000000")
    return speed
