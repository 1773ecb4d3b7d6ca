"""How far ingest has acknowledged a stream.

An offset per segment, and the few lines that are deferred.

Kept in one small file per stream, replaced atomically after each response and never before it. A crash can
therefore only lead to sending again. This module never decides what to send.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import msgspec

from pod_worker.outbox.segment_files import lane_of, open_segment

FILE_NAME = "acked.json"
_BLOCK_BYTES = 4096


class Span(NamedTuple):
    """One line of a segment file: its bytes [start, end), newline included."""

    file: str
    start: int
    end: int


class Cursor(msgspec.Struct):
    """The acknowledged part of a stream.

    `offsets`: acknowledged bytes by file name. `deferred`: lines before an offset that are to be sent again.
    """

    offsets: dict[str, int] = {}
    deferred: list[Span] = []

    def is_acknowledged(self, file: str, size: int) -> bool:
        return self.offsets.get(file, 0) >= size and not any(
            span.file == file and span.start < size for span in self.deferred
        )

    def save(self, directory: Path) -> None:
        temporary = directory / f"{FILE_NAME}.new"
        temporary.unlink(missing_ok=True)  # it may be a link that code in the run has put there
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with open(os.open(temporary, flags, 0o600), "wb") as file:
            file.write(msgspec.json.encode(self))
        os.replace(temporary, directory / FILE_NAME)


class _StoredCursor(Cursor):
    held: list[Span] = []  # the name of `deferred` before 0.1.0


def has_cursor(directory: Path) -> bool:
    return os.path.exists(directory / FILE_NAME)


def load_cursor(directory: Path) -> Cursor:
    """Read the cursor; a file that is absent or damaged acknowledges nothing.

    So does one that names what is not a segment.
    """
    try:
        with open_segment(directory / FILE_NAME) as file:
            stored = msgspec.json.decode(file.read(), type=_StoredCursor)
    except (OSError, msgspec.MsgspecError, ValueError):
        return Cursor()
    offsets = {name: offset for name, offset in stored.offsets.items() if lane_of(name) and offset >= 0}
    spans = stored.deferred + stored.held
    return Cursor(offsets, [span for span in spans if lane_of(span.file) and 0 <= span.start < span.end])


def complete_bytes(path: Path) -> int:
    """The size of a segment without a torn last line, whose `emit` never returned."""
    try:
        with open_segment(path) as file:
            end = file.seek(0, os.SEEK_END)
            while end:
                start = max(0, end - _BLOCK_BYTES)
                file.seek(start)
                newline = file.read(end - start).rfind(b"\n")
                if newline >= 0:
                    return start + newline + 1
                end = start
    except FileNotFoundError:
        pass
    return 0
