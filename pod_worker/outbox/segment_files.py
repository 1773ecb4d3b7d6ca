"""Names and opening of a stream's segment files, for writers and readers alike.

Code in the run can write into the spool, so no symbolic link is followed, no FIFO is waited for, and a file whose
name is not a segment's is ignored.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

FACTS, SAMPLES = 0, 1
LANES = ("facts", "samples")
OVERFLOW = "overflow"  # files of one process each, written while another one holds the lock
_OLD_OVERFLOW = "aside"  # its name before 0.1.0
_NUMBERED = re.compile(r"(facts|samples)\.(\d{1,12})\.ndjson")
_OVERFLOW = re.compile(rf"({OVERFLOW}|{_OLD_OVERFLOW})\.[\w-]{{1,80}}\.ndjson", re.ASCII)
_SENDING_ORDER = {"facts": 0, OVERFLOW: 1, _OLD_OVERFLOW: 1, "samples": 2}
READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def segment_name(lane: int, number: int) -> str:
    return f"{LANES[lane]}.{number:08d}.ndjson"


def lane_of(name: str) -> str | None:
    """`facts`, `samples` or `overflow`; None for any other file."""
    if found := _NUMBERED.fullmatch(name):
        return found[1]
    return OVERFLOW if _OVERFLOW.fullmatch(name) else None


def number_of(name: str) -> int:
    """The number of a facts or samples segment; 0 for any other file."""
    found = _NUMBERED.fullmatch(name)
    return int(found[2]) if found else 0


def segment_entries(directory: Path) -> list[os.DirEntry[str]]:
    """The regular segment files of one stream, in sending order.

    The order is facts, overflow, samples, each oldest first.
    """
    try:
        with os.scandir(directory) as entries:
            found = [entry for entry in entries if lane_of(entry.name) and entry.is_file(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(found, key=lambda entry: (_SENDING_ORDER[entry.name.partition(".")[0]], entry.name))


def open_segment(path: Path) -> BinaryIO:
    """Open for reading.

    Raises OSError; FileNotFoundError also for what is not a regular file.
    """
    try:
        fd = os.open(path, READ_FLAGS)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise FileNotFoundError(f"{path} is a symbolic link") from None
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise FileNotFoundError(f"{path} is not a regular file")
    return open(fd, "rb")


def whole_lines(path: Path) -> Iterator[bytes]:
    """Every whole line without its newline; a torn last line is left out."""
    with open_segment(path) as file:
        data = file.read()
    yield from data[: data.rfind(b"\n") + 1].split(b"\n")[:-1]
