"""Clocks as arguments, so that tests of leases and order need not wait.

`monotonic` measures durations and trust; `now` is for display and for stamping events. Ids are ULIDs, made by
the caller that owns randomness. This module never sleeps.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    def now(self) -> datetime:
        """Wall clock, UTC, aware. It may jump, so no decision about a lease uses it."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never jumps.

        It advances while the process is stopped.
        """


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        # CLOCK_BOOTTIME also counts a suspended machine, so a lease cannot look fresh after a resume.
        return time.clock_gettime(_BOOTTIME) if _BOOTTIME is not None else time.monotonic()


class ManualClock:
    """A clock that tests step by hand."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._now = start
        self._monotonic = 1000.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds


_BOOTTIME: int | None = getattr(time, "CLOCK_BOOTTIME", None)


def rfc3339(moment: datetime) -> str:
    """A moment in UTC as `2026-01-31T18:00:00Z`."""
    return moment.isoformat().replace("+00:00", "Z")
