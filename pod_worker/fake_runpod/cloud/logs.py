"""The log of one pod: a bounded ring of lines that a reader can follow.

Timestamps are unique and increasing, so one identifies a line and serves as the resume cursor. The oldest lines
are dropped; nothing is written to disk.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from pod_worker.fake_runpod import timestamps

KEEP_LINES = 5000
LINE_LIMIT = 8192
"""Characters; longer lines are truncated with a note."""


@dataclass(frozen=True, slots=True)
class LogLine:
    at_ns: int
    source: str
    """container or system"""
    text: str

    @property
    def stamp(self) -> str:
        return timestamps.rfc3339_nano(self.at_ns)


class PodLog:
    def __init__(self) -> None:
        self._lines: deque[LogLine] = deque(maxlen=KEEP_LINES)
        self._last_ns = 0
        self._readers: set[Callable[[], None]] = set()
        self.is_closed = False

    def write(self, now_ns: int, source: str, text: str) -> None:
        if len(text) > LINE_LIMIT:
            text = f"{text[:LINE_LIMIT]} … [{len(text) - LINE_LIMIT} characters cut]"
        self._last_ns = max(now_ns, self._last_ns + 1)
        self._lines.append(LogLine(self._last_ns, source, text))
        self._wake()

    def close(self) -> None:
        """End the log: readers finish the remaining lines and stop."""
        self.is_closed = True
        self._wake()

    def tail(self, count: int, source: str | None = None) -> list[LogLine]:
        kept = [line for line in self._lines if source in (None, line.source)]
        return kept[len(kept) - min(count, len(kept)) :]

    def after(self, at_ns: int, source: str | None = None) -> list[LogLine]:
        """Lines later than `at_ns`, oldest first."""
        newer: list[LogLine] = []
        for line in reversed(self._lines):
            if line.at_ns <= at_ns:
                break
            if source in (None, line.source):
                newer.append(line)
        return newer[::-1]

    @property
    def last_ns(self) -> int:
        return self._last_ns

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Call `wake` on every change until the returned function is called."""
        self._readers.add(wake)
        return lambda: self._readers.discard(wake)

    def _wake(self) -> None:
        for wake in tuple(self._readers):
            wake()
