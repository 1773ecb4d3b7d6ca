"""The signal that tells long work to stop."""

from __future__ import annotations

from typing import Protocol


class StopSignal(Protocol):
    def check(self) -> None:
        """Raise CancelRequested or DrainRequested after a request to stop; call it often."""

    def is_set(self) -> bool: ...
