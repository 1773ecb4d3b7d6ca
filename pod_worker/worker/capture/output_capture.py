"""The output of a run as bounded logs: a file on the pod, and events.

The file is two halves that replace each other, so the end is always kept. Events are limited per second; the
number of skipped lines is reported. Bytes that are no text are replaced, escape sequences and control characters
removed. A file that cannot be written never stops the reading: the run would block on its pipe.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path

from pod_worker.core.clock import Clock
from pod_worker.core.credentials.secret import Redactor
from pod_worker.core.payload import RunLog
from pod_worker.core.terminal_text import terminal_text
from pod_worker.worker.capture.output_mask import OutputMask

FILE_BYTES = 16 * 1024 * 1024
LINES_PER_SECOND = 50
BURST_LINES = 500
LINE_CHARACTERS = 4_000
TAIL_LINES = 40
BAR_SECONDS = 10.0  # between two lines of a progress bar that replaces itself
# O_NONBLOCK: a FIFO in the place of the file must not block us. The run may have made either.
_FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class OutputCapture:
    def __init__(
        self,
        source: BufferedReader,
        path: Path,
        emit: Callable[[RunLog], object],
        clock: Clock,
        redactor: Redactor | None = None,
    ) -> None:
        self._source = source
        self._mask = OutputMask(redactor or Redactor())
        self._emit = emit
        self._clock = clock
        self._file = _RotatingFile(path)
        self._name = path.name
        self._allowance = float(BURST_LINES)
        self._refilled = clock.monotonic()
        self._skipped = 0
        self._rest = b""
        self._is_in_long_line = False
        self._bar_shown = clock.monotonic()
        self._tail: deque[bytes] = deque(maxlen=TAIL_LINES)

    @property
    def tail(self) -> list[str]:
        """The last lines, for the report of a crash."""
        return [_text(raw) for raw in self._tail]

    def run(self) -> None:
        """Reads until the end and closes the source."""
        with self._source:
            while chunk := self._read():
                self._record(self._mask.feed(chunk))
        self._record(self._mask.rest())
        self._file.close()
        self._take(b"\n")
        self._report_skipped()

    def _read(self) -> bytes:
        try:
            return self._source.read1(65536)
        except ValueError:
            return b""  # closed by another thread

    def _record(self, chunk: bytes) -> None:
        if chunk:
            self._file.write(chunk)
            self._take(chunk)

    def _take(self, chunk: bytes) -> None:
        *lines, rest = (self._rest + chunk).split(b"\n")
        lines = [_last_state(line) for line in lines]
        self._rest = self._unfinished(rest, lines)
        if lines and self._is_in_long_line:
            lines, self._is_in_long_line = lines[1:], False  # its beginning is reported, the rest is cut
        if self._is_in_long_line:
            self._rest = b""
        elif len(self._rest) > LINE_CHARACTERS:
            lines, self._rest, self._is_in_long_line = [*lines, self._rest], b"", True
        self._take_lines([raw for raw in lines if raw.strip()])

    def _unfinished(self, rest: bytes, lines: list[bytes]) -> bytes:
        """What to keep of a line without its end.

        The state of a progress bar is shown from time to time.
        """
        state, is_bar, newest = rest.rpartition(b"\r")
        if not is_bar:
            return rest
        shown, now = _last_state(state), self._clock.monotonic()
        if now - self._bar_shown >= BAR_SECONDS and shown.strip():
            self._bar_shown = now
            lines.append(shown)
        return shown + is_bar + newest

    def _take_lines(self, lines: list[bytes]) -> None:
        """Take lines; those beyond the limit are not decoded.

        A flood must not starve the thread that renews the lease.
        """
        shown = self._allowed(len(lines), reports=int(self._skipped > 0))
        if shown:
            self._report_skipped()
        for raw in lines[:shown]:
            self._emit(RunLog(message=_text(raw), source="stdout"))
        self._skipped += len(lines) - shown
        self._tail.extend(raw[: LINE_CHARACTERS + 1] for raw in lines[-TAIL_LINES:])

    def _allowed(self, wanted: int, reports: int) -> int:
        """How many lines may be shown now; a report before them counts like a line."""
        now = self._clock.monotonic()
        self._allowance = min(self._allowance + (now - self._refilled) * LINES_PER_SECOND, BURST_LINES)
        self._refilled = now
        shown = min(wanted, max(int(self._allowance) - reports, 0))
        self._allowance -= shown + reports if shown else 0
        return shown

    def _report_skipped(self) -> None:
        if self._skipped:
            count, self._skipped = self._skipped, 0
            message = f"{count} lines of output skipped here; the pod keeps the last of them in {self._name}"
            self._emit(RunLog(level="warn", message=message, source="stdout"))


def _last_state(line: bytes) -> bytes:
    """What a terminal shows of a line that returns to its beginning (carriage return)."""
    if b"\r" not in line:
        return line
    return next((state for state in reversed(line.split(b"\r")) if state.strip()), b"")


class _RotatingFile:
    """At most two files of FILE_BYTES. Every error costs the file, never the caller."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self._written = 0
        self._is_usable = True

    def write(self, chunk: bytes) -> None:
        if not self._is_usable:
            return
        try:
            if self._fd < 0 or self._written >= FILE_BYTES:
                self._rotate()
            self._written += len(chunk)
            os.write(self._fd, chunk)
        except BlockingIOError:
            pass
        except OSError:
            # A full disk may have room again; a name that is taken by something else will not be ours.
            self._is_usable = self._fd >= 0

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _rotate(self) -> None:
        if self._fd >= 0:
            self.close()
            os.replace(self._path, self._path.with_suffix(".1"))
        self._fd = os.open(self._path, _FILE_FLAGS, 0o600)
        self._written = 0
        found = os.fstat(self._fd)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            self.close()
            raise OSError(f"{self._path} is not a regular file with one name")
        os.ftruncate(self._fd, 0)


def _text(raw: bytes) -> str:
    text = terminal_text(raw[:LINE_CHARACTERS].decode("utf-8", "replace")).rstrip()
    return f"{text} [line cut after {LINE_CHARACTERS} bytes]" if len(raw) > LINE_CHARACTERS else text
