"""Hashes of files by size, times and inode, so that an unchanged tree is not read.

One file per scanned folder, in the user's cache folder. A file that changed within the last seconds is never
remembered: a second change could leave its times as they are. A cache that cannot be read or written is no error.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from pathlib import Path

import msgspec

SETTLED_NS = 2_000_000_000
Stamp = tuple[int, int, int, int]


def stamp(found: os.stat_result) -> Stamp:
    return (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


class HashCache:
    """`folder` None: remembers nothing."""

    def __init__(self, folder: Path | None, root: Path) -> None:
        name = hashlib.sha256(os.fsencode(root)).hexdigest()[:32]
        self._file = folder / f"{name}.msgpack" if folder else None
        self._known = self._read()
        self._seen: dict[str, tuple[Stamp, str]] = {}

    def get(self, path: str, now: Stamp) -> str | None:
        known = self._known.get(path)
        if known is None or known[0] != now:
            return None
        self._seen[path] = known
        return known[1]

    def put(self, path: str, seen: Stamp, sha256: str) -> None:
        if max(seen[1], seen[2]) < time.time_ns() - SETTLED_NS:
            self._seen[path] = (seen, sha256)

    def save(self) -> None:
        """Keep the entries of this scan alone."""
        if self._file is None or self._seen == self._known:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle, partial = tempfile.mkstemp(dir=self._file.parent)
            with os.fdopen(handle, "wb") as file:
                file.write(msgspec.msgpack.encode(self._seen))
            os.replace(partial, self._file)
        except (OSError, msgspec.MsgspecError):
            return

    def _read(self) -> dict[str, tuple[Stamp, str]]:
        if self._file is None:
            return {}
        try:
            return msgspec.msgpack.decode(self._file.read_bytes(), type=dict[str, tuple[Stamp, str]])
        except (OSError, msgspec.MsgspecError):
            return {}


def hash_cache_folder() -> Path | None:
    """For the hashes of unchanged files; None without a home folder."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pod_worker"
    except RuntimeError:
        return None
