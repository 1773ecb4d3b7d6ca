"""The signal that tells long work to stop."""

from __future__ import annotations

from typing import Protocol


class StopSignal(Protocol):
    def check(self) -> None:
        """Raise CancelRequested or DrainRequested after a request to stop; call it often."""

    def is_set(self) -> bool: ...


class TimedStopSignal(StopSignal, Protocol):
    """A stop signal that knows how long an orderly end may take."""

    def seconds_left(self) -> float | None:
        """Seconds until the process is ended by force; None before a request to stop."""
