"""Extracts known members of an uncompressed tar, within bounds.

Bounds what is written and kept, whatever the headers claim.

A header may claim any size, and a sparse member of 10 KiB expands to any number of zeros. An uncompressed archive
without sparse members cannot hold more bytes than its own size, so that is the bound.
"""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

_BLOCK_BYTES = 1 << 20


class ArchiveError(Exception):
    """The archive does not hold what it must, or holds more; the message says which."""


def extract_members(archive: Path, names: Sequence[str], folder: Path) -> None:
    """Write exactly the members `names`, in this order, into `folder`.

    Raises ArchiveError and OSError.
    """
    budget = archive.stat().st_size
    try:
        with tarfile.open(archive, "r:") as tar:
            for name in names:
                budget -= _extract(tar, name, folder, budget)
            if (extra := tar.next()) is not None:
                raise ArchiveError(f"it has the unexpected member {extra.name[:80]!r}")
    except (tarfile.TarError, EOFError, RecursionError, ValueError) as error:
        raise ArchiveError(f"it cannot be read ({type(error).__name__}: {str(error)[:200]})") from error


def _extract(tar: tarfile.TarFile, name: str, folder: Path, budget: int) -> int:
    """Bytes written.

    Members are read one at a time: a list of all headers would have no bound.
    """
    member = tar.next()
    if member is None or member.name != name:
        raise ArchiveError(
            f"it has {member.name[:80]!r} in the place of {name!r}" if member else f"{name!r} misses"
        )
    if not member.isreg():
        raise ArchiveError(f"its member {name!r} is not a plain file")
    source = tar.extractfile(member)
    assert source is not None  # only None for what is not a file
    with source:
        copied = copy_bounded(source, folder / name, budget)
    if copied != member.size:
        raise ArchiveError(f"its member {name!r} is cut short")
    return copied


def copy_bounded(source: IO[bytes], target: Path, budget: int) -> int:
    """Copy into a new file; returns the number of bytes.

    Raises ArchiveError before the file exceeds `budget`.
    """
    copied = 0
    with target.open("xb") as file:
        while block := source.read(_BLOCK_BYTES):
            copied += len(block)
            if copied > budget:
                raise ArchiveError(f"its member {target.name!r} has more than the {budget} bytes that it may have")
            file.write(block)
    return copied
