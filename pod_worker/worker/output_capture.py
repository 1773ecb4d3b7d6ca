"""What a run prints, made into bounded logs: a file on the pod for everything, events for people.

The file is two halves that replace each other, so the end is always kept. Events are limited per second; what
is skipped is counted and reported. Bytes that are no text are replaced, control characters dropped.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from io import BufferedReader, FileIO
from pathlib import Path

from pod_worker.core.clock import Clock
from pod_worker.core.payload import RunLog

FILE_BYTES = 16 * 1024 * 1024
LINES_PER_SECOND = 50
BURST_LINES = 500
LINE_CHARACTERS = 4_000
TAIL_LINES = 40

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


class OutputCapture:
    def __init__(self, source: BufferedReader, path: Path, emit: Callable[[RunLog], object], clock: Clock) -> None:
        self._source = source
        self._path = path
        self._emit = emit
        self._clock = clock
        self._allowance = float(BURST_LINES)
        self._refilled = clock.monotonic()
        self._skipped = 0
        self._rest = b""
        self._tail: deque[bytes] = deque(maxlen=TAIL_LINES)

    @property
    def tail(self) -> list[str]:
        """The last lines, for the report of a crash."""
        return [_text(raw) for raw in self._tail]

    def run(self) -> None:
        """Reads until the end and closes the source.

        It keeps reading even when the disk is full, or the run would block on its pipe.
        """
        with self._source:
            self._copy()
        self._report_skipped()

    def _copy(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        chunk = self._read()
        while chunk:
            with open(self._path, "wb", buffering=0) as file:
                written = 0
                while chunk and written < FILE_BYTES:
                    written += _write(file, chunk)
                    self._take(chunk)
                    chunk = self._read()
            if chunk:
                self._path.replace(self._path.with_suffix(".1"))
        self._take(b"\n")

    def _read(self) -> bytes:
        try:
            return self._source.read1(65536)
        except ValueError:
            return b""  # closed under us

    def _take(self, chunk: bytes) -> None:
        *lines, self._rest = (self._rest + chunk).replace(b"\r", b"\n").split(b"\n")
        if len(self._rest) > LINE_CHARACTERS:
            lines, self._rest = [*lines, self._rest], b""
        self._take_lines([raw[:LINE_CHARACTERS] for raw in lines if raw.strip()])

    def _take_lines(self, lines: list[bytes]) -> None:
        """A flood must cost little here, beside the thread that renews the lease: what is skipped is not read."""
        shown = self._allowed(len(lines))
        if shown:
            self._report_skipped()
        for raw in lines[:shown]:
            self._emit(RunLog(message=_text(raw), source="stdout"))
        self._skipped += len(lines) - shown
        self._tail.extend(lines[-TAIL_LINES:])

    def _allowed(self, wanted: int) -> int:
        now = self._clock.monotonic()
        self._allowance = min(self._allowance + (now - self._refilled) * LINES_PER_SECOND, BURST_LINES)
        self._refilled = now
        shown = min(wanted, int(self._allowance))
        self._allowance -= shown
        return shown

    def _report_skipped(self) -> None:
        if self._skipped:
            count, self._skipped = self._skipped, 0
            message = f"{count} lines of output skipped here; the pod keeps the last of them in {self._path.name}"
            self._emit(RunLog(level="warn", message=message, source="stdout"))


def _text(raw: bytes) -> str:
    return _CONTROL.sub("", raw.decode("utf-8", "replace")).rstrip()


def _write(file: FileIO, chunk: bytes) -> int:
    try:
        return file.write(chunk) or 0
    except OSError:
        return len(chunk)  # a full disk costs the file, never the run
