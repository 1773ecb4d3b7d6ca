"""How far a stream has been acknowledged by ingest: an offset per segment, and the few lines held back.

Kept in one small file per stream, replaced atomically after each response and never before it, so a crash
can only lead to sending again. It never decides what to send.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import msgspec

FILE_NAME = "acked.json"
_BLOCK_BYTES = 4096


class Span(NamedTuple):
    """One line of a segment file: its bytes [start, end), newline included."""

    file: str
    start: int
    end: int


class Cursor(msgspec.Struct):
    """`offsets`: acknowledged bytes by file name. `held`: lines before an offset that are not settled yet."""

    offsets: dict[str, int] = {}
    held: list[Span] = []

    def is_acknowledged(self, file: str, size: int) -> bool:
        return self.offsets.get(file, 0) >= size and not any(
            span.file == file and span.start < size for span in self.held
        )

    def save(self, directory: Path) -> None:
        temporary = directory / f"{FILE_NAME}.new"
        temporary.write_bytes(msgspec.json.encode(self))
        os.replace(temporary, directory / FILE_NAME)


def has_cursor(directory: Path) -> bool:
    return os.path.exists(directory / FILE_NAME)


def load_cursor(directory: Path) -> Cursor:
    """Nothing acknowledged where the file is absent or, after a power cut, unreadable."""
    try:
        return msgspec.json.decode((directory / FILE_NAME).read_bytes(), type=Cursor)
    except (FileNotFoundError, msgspec.DecodeError):
        return Cursor()


def complete_bytes(path: Path) -> int:
    """The size of a segment without a torn last line, which nobody was told about and nobody will be sent."""
    try:
        with open(path, "rb") as file:
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
