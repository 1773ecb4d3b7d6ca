"""The virtual clock: real time multiplied by a speed, plus whatever a test stepped by hand.

Speed 0 stands still between steps, which makes a week of billing take as long as one request. The clock never
runs backwards and knows nothing about pods.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from pod_worker.fake_runpod.timestamps import from_seconds


class VirtualClock:
    def __init__(
        self, start_ns: int, speed: float = 1.0, *, monotonic_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        """`start_ns`: the virtual instant it begins at. `speed`: virtual seconds per real second, 0 = frozen."""
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
        """Jump ahead by virtual seconds; returns the new instant."""
        if seconds < 0:
            raise ValueError("the virtual clock only goes forward: give seconds >= 0")
        self._rebase(self.now_ns() + from_seconds(seconds))
        return self._base

    def set_speed(self, speed: float) -> None:
        self._rebase(self.now_ns())
        self._speed = _checked(speed)

    def real_seconds(self, virtual_seconds: float) -> float:
        """How long a virtual span lasts outside; a frozen clock counts one to one."""
        return virtual_seconds / self._speed if self._speed else virtual_seconds

    def _rebase(self, instant: int) -> None:
        self._base = instant
        self._since = self._monotonic_ns()


def _checked(speed: float) -> float:
    if not 0 <= speed <= 1_000_000:
        raise ValueError(f"speed {speed} is out of range: virtual seconds per real second, 0 to 1000000")
    return speed
