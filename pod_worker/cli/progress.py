"""A line on stderr that shows how far a transfer is; only on a terminal."""

from __future__ import annotations

import sys

from pod_worker.cli.output import bar, size
from pod_worker.core.terminal_text import one_line


class ByteProgress:
    """Bytes so far of a total.

    `with ByteProgress("upload", total) as progress: progress.add(count)`.
    """

    def __init__(self, label: str, total: int = 0) -> None:
        self._label, self._total = one_line(label), total
        self._done = 0
        self._shown: int | None = None  # percent
        self._is_terminal = sys.stderr.isatty()

    def __enter__(self) -> ByteProgress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown is not None:
            sys.stderr.write("\n")

    def add(self, count: int) -> None:
        self.update(self._done + count, self._total)

    def update(self, done: int, total: int) -> None:
        """A repeated request may count bytes twice; more than all is shown as all."""
        self._done, self._total = done, total
        share = min(done / max(self._total, 1), 1.0)
        percent = int(100 * share)
        if not self._is_terminal or percent == self._shown:
            return
        self._shown = percent
        sys.stderr.write(f"\r{self._label}: {bar(share)} {percent:3} % of {size(self._total)} ")
        sys.stderr.flush()
