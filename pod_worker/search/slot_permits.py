"""Which slots are in use, where agents execute programs beside the scheduler."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pod_worker.core.stage import StopSignal

_POLL_SECONDS = 0.1


class SlotPermits:
    """One program at a time in each slot. Safe for several threads."""

    def __init__(self, slots: int) -> None:
        self._free = set(range(slots))
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, stop: StopSignal, slot: int | None = None) -> Iterator[int]:
        """The given slot, or any free one, until the block ends.

        Raises the interruptions of `stop`.
        """
        taken = self._take(stop, slot)
        try:
            yield taken
        finally:
            with self._changed:
                self._free.add(taken)
                self._changed.notify_all()

    def _take(self, stop: StopSignal, slot: int | None) -> int:
        with self._changed:
            while not (usable := self._free if slot is None else self._free & {slot}):
                stop.check()
                self._changed.wait(_POLL_SECONDS)
            taken = min(usable)
            self._free.remove(taken)
            return taken
