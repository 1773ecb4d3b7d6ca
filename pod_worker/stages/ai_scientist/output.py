"""What AI-Scientist-v2 prints: masked, passed on, kept, and understood."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from types import TracebackType

from pod_worker.core.credentials.secret import Redactor

LINE_BYTES = 64 * 1024
FILE_BYTES = 32 * 1024 * 1024  # two files of it at most; the end is always kept

FINISHED = "Start cleaning up processes"
NO_WORKING_PROGRAM = "Experiment ended: Could not find working implementation in initial stage"
NO_PAPER = "Writeup process did not complete successfully after all retries."
PAPER_FOUND = "Paper found at:"
REVIEW_DONE = "Paper review completed."
_ERROR = re.compile(r"(?:[A-Za-z_]\w*\.)*(?:[A-Za-z_]\w*)?(?:Error|Exception)(?::|$)")
_STYLE = re.compile(r"\[/?[a-z][a-z ]*\]")  # of rich, where a line was printed without it


@dataclass(slots=True)
class OutputFacts:
    """What the lines so far say about the run."""

    is_finished: bool = False  # the launcher reached its end, after which it only kills processes
    has_no_working_program: bool = False
    has_no_paper: bool = False
    is_paper_found: bool = False
    is_review_done: bool = False
    last_error: str = ""  # last line of the last traceback

    def read(self, line: str) -> None:
        text = _STYLE.sub("", line).strip()
        if text == FINISHED:
            self.is_finished = True
        elif text.startswith(NO_WORKING_PROGRAM):
            self.has_no_working_program = True
        elif text == NO_PAPER:
            self.has_no_paper = True
        elif text.startswith(PAPER_FOUND):
            self.is_paper_found = True
        elif text == REVIEW_DONE:
            self.is_review_done = True
        elif _ERROR.match(line):
            self.last_error = text[:500]


class OutputReader:
    """A pipe for the program's output; a thread reads it until no process has it open.

    `with OutputReader(…) as output:` start the program with `output.writer`, then call `output.started()`.
    """

    def __init__(self, log: Path, redactor: Redactor, show: Callable[[bytes], None] | None = None) -> None:
        self.facts = OutputFacts()
        self._log = _BoundedFile(log)
        self._redactor = redactor
        self._show = show or _print
        reader, self.writer = os.pipe()
        self._reader = os.fdopen(reader, "rb")
        self._thread = threading.Thread(target=self._run, args=(self._reader,), name="output", daemon=True)

    def __enter__(self) -> OutputReader:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.started()
        self._thread.join()

    def started(self) -> None:
        """Only the program has the pipe open from now on."""
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1

    def _run(self, source: BufferedReader) -> None:
        with source, self._log:
            rest = b""
            while part := source.readline(LINE_BYTES):
                rest = self._take(rest + part)
            self._take(rest + b"\n" if rest else b"")

    def _take(self, data: bytes) -> bytes:
        """Show all but what may be the beginning of a secret; returns that.

        Only a line that is longer than the limit has such a rest.
        """
        masked = self._redactor.redact_bytes(data)
        length = len(masked) if masked.endswith(b"\n") else max(len(masked) - self._redactor.longest_bytes, 0)
        shown, rest = masked[:length], masked[length:]
        self._log.write(shown)
        self._show(shown)
        for line in shown.decode("utf-8", "replace").splitlines():
            self.facts.read(line)
        return rest


def _print(data: bytes) -> None:
    """To our own standard output, which the worker turns into log events."""
    try:
        sys.stdout.flush()
        os.write(1, data)
    except OSError:
        pass  # a log that cannot be shown must not block the program


class _BoundedFile:
    """A file and its predecessor. An error costs the file, never the program."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb")
        self._written = 0

    def __enter__(self) -> _BoundedFile:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._file.close()
        except OSError:
            pass

    def write(self, data: bytes) -> None:
        try:
            if self._written + len(data) > FILE_BYTES:
                self._file.close()
                self._path.replace(self._path.with_suffix(".1"))
                self._file = self._path.open("wb")
                self._written = 0
            self._file.write(data)
            self._file.flush()
            self._written += len(data)
        except (OSError, ValueError):
            pass
