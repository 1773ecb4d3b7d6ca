"""Follows the events file of a job: metrics, progress and log lines.

The file is input from a program of a user: each line is checked, bounded and, when it is wrong, named.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from pod_worker.command.reports.event_line import (
    CheckpointLine,
    EventLineError,
    ProgressLine,
    ReportedText,
    parse_line,
)
from pod_worker.command.reports.rate_limit import MetricLimit
from pod_worker.core.payload import StageProgress
from pod_worker.core.stage import Context
from pod_worker.process.supervised_thread import SupervisedThread

POLL_SECONDS = 0.25
CLOSE_SECONDS = 30.0
READ_BYTES = 256 * 1024
LINE_BYTES = 1024 * 1024
NAMED_LINES = 10
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class EventsFileReader:
    """One thread reads what was appended; `close` reads the rest.

    A file that was replaced or became shorter is read from its beginning. `on_checkpoint` is called when the
    program asks for a snapshot of its checkpoints.
    """

    def __init__(self, path: Path, context: Context, on_checkpoint: Callable[[], object] = lambda: None) -> None:
        self._path, self._context, self._on_checkpoint = path, context, on_checkpoint
        self._fd = -1
        self._offset = 0
        self._number = 0
        self._rest = b""
        self._is_in_long_line = False
        self._invalid = 0
        self._has_warned_of_kind = False
        self._metrics = MetricLimit(context.emit)
        self._progress: StageProgress | None = None
        self._thread = SupervisedThread("job events", self._step, stuck_seconds=None)

    def __enter__(self) -> EventsFileReader:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End the thread, then read to the end of the file."""
        if not self._thread.stop(CLOSE_SECONDS):
            return  # the thread still holds the file
        self.poll()
        if self._rest:
            self._take(self._rest)
            self._rest = b""
        self._emit_progress()
        self._metrics.flush()
        if count := self.thinned:
            self._warn(f"{count} metric values were thinned: a series keeps its newest value; report less often")
        if (more := self._invalid - NAMED_LINES) > 0:
            self._warn(f"{more} more invalid lines in the events file")
        self._close_file()

    @property
    def thinned(self) -> int:
        """Metric values that were left out."""
        return self._metrics.thinned

    def _step(self) -> float:
        self.poll()
        return POLL_SECONDS

    def poll(self) -> None:
        """Read all that was appended since the last call."""
        found = self._find()
        if self._fd >= 0 and (found is None or not os.path.samestat(found, os.fstat(self._fd))):
            self._read()  # the rest of the file that was replaced
            self._close_file()
        if self._fd < 0 and found is not None:
            self._open()
        if self._fd >= 0:
            if os.fstat(self._fd).st_size < self._offset:
                self._begin()
            self._read()
        self._emit_progress()
        self._metrics.emit_due()

    def _find(self) -> os.stat_result | None:
        try:
            return self._path.lstat()
        except FileNotFoundError:
            return None

    def _open(self) -> None:
        try:
            fd = os.open(self._path, _FLAGS)
        except FileNotFoundError:
            return
        except OSError as error:
            self._refuse_kind(error.strerror or str(error))
            return
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            self._refuse_kind("it is no regular file")
            return
        self._fd = fd
        self._begin()

    def _refuse_kind(self, cause: str) -> None:
        if not self._has_warned_of_kind:
            self._has_warned_of_kind = True
            self._warn(f"$POD_WORKER_EVENTS cannot be read: {cause}; write a regular file there")

    def _begin(self) -> None:
        self._offset = self._number = 0
        self._rest, self._is_in_long_line = b"", False

    def _close_file(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _read(self) -> None:
        """Up to the size at the start, so that a flood cannot keep `close` from ending."""
        end = os.fstat(self._fd).st_size
        while self._offset < end:
            chunk = os.pread(self._fd, min(READ_BYTES, end - self._offset), self._offset)
            if not chunk:
                return
            self._offset += len(chunk)
            self._split(chunk)

    def _split(self, chunk: bytes) -> None:
        *lines, rest = (self._rest + chunk).split(b"\n")
        if lines and self._is_in_long_line:
            self._is_in_long_line = False
            lines = lines[1:]
        for line in lines:
            self._take(line)
        self._rest = b"" if self._is_in_long_line else rest
        if len(self._rest) > LINE_BYTES:
            self._take(self._rest)
            self._rest, self._is_in_long_line = b"", True

    def _take(self, line: bytes) -> None:
        self._number += 1
        if not line.strip():
            return
        try:
            if len(line) > LINE_BYTES:
                raise EventLineError(f"longer than {LINE_BYTES} bytes; write less in a line")
            event = parse_line(line, self._context.stage)
        except EventLineError as error:
            self._refuse(str(error))
            return
        if isinstance(event, ReportedText):
            self._context.log(event.message, event.level)
        elif isinstance(event, ProgressLine):
            self._progress = StageProgress(stage=self._context.stage, progress=event.fraction)
        elif isinstance(event, CheckpointLine):
            self._on_checkpoint()
        else:
            self._metrics.add(event)

    def _emit_progress(self) -> None:
        """Only the newest of a poll matters."""
        if self._progress is not None:
            newest, self._progress = self._progress, None
            self._context.emit(newest)

    def _refuse(self, cause: str) -> None:
        self._invalid += 1
        if self._invalid <= NAMED_LINES:
            self._warn(f"line {self._number} of the events file was not recorded: {cause}")

    def _warn(self, message: str) -> None:
        self._context.log(message, "warning")
