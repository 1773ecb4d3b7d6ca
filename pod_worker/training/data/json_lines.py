"""Opens a data set file as lines of JSON.

JSONL, the same in gzip or UTF-16, and one JSON array.

A file of another kind is refused by its name (Parquet, a ZIP archive), never line by line.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import msgspec

from pod_worker.core.failure import FailureCode, RunError

UTF8_MARK, UTF16_MARKS = b"\xef\xbb\xbf", (b"\xff\xfe", b"\xfe\xff")
ARRAY_LIMIT_BYTES = 2**30
# First bytes of files that people take for JSONL, and what they are.
REFUSED = {b"PAR1": "a Parquet file", b"PK\x03\x04": "a ZIP archive", b"\x28\xb5\x2f\xfd": "a zstd archive"}


def json_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Line number (from 1) and bytes of each line that is not blank.

    For a JSON array these are its elements.

    Raises RunError(INVALID_INPUT) that names the file, what is wrong with it, and what to give instead.
    """
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist on this machine"
        raise _invalid(path, f"{what}: give the path of a JSONL file")
    try:
        with _open(path) as file:
            yield from _lines(path, file)
    except PermissionError as error:
        raise _invalid(path, f"may not be read: {error.strerror}") from error
    except (OSError, EOFError, zlib.error, UnicodeError) as error:
        raise _invalid(path, f"cannot be read ({type(error).__name__}: {error}): save it again") from error


def _open(path: Path) -> BinaryIO:
    with path.open("rb") as file:
        head = file.read(4)
    if head[:2] == b"\x1f\x8b":
        return cast(BinaryIO, gzip.open(path))
    if head[:2] in UTF16_MARKS:
        return io.BytesIO(path.read_bytes().decode("utf-16").encode())
    for mark, kind in REFUSED.items():
        if head.startswith(mark):
            raise _invalid(path, f"is {kind}: convert it to JSONL, one JSON object a line")
    return path.open("rb")


def _lines(path: Path, file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    is_first = True
    for number, line in enumerate(file, 1):
        line = line.removeprefix(UTF8_MARK) if number == 1 else line
        if not line.strip():
            continue
        if is_first and line.lstrip().startswith(b"["):
            yield from _elements(path, line + file.read(ARRAY_LIMIT_BYTES))
            return
        if is_first and line.strip() == b"{":
            raise _invalid(
                path, "spreads one JSON object over several lines: write one object a line (jq -c . FILE)"
            )
        is_first = False
        yield number, line


def _elements(path: Path, text: bytes) -> Iterator[tuple[int, bytes]]:
    """The elements of one JSON array; the number is the element's, from 1."""
    try:
        elements = msgspec.json.decode(text, type=list[msgspec.Raw])
    except msgspec.DecodeError as error:
        raise _invalid(
            path, f"begins as a JSON array and is none ({error}): write one JSON object a line"
        ) from None
    for number, element in enumerate(elements, 1):
        yield number, bytes(element)


def _invalid(path: Path, problem: str) -> RunError:
    return RunError(FailureCode.INVALID_INPUT, f"data set {path.absolute()} {problem}")
