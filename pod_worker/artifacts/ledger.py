"""What this run has uploaded from this pod, on disk.

A crash at any line neither loses nor doubles an upload.

JSON lines, appended with fsync and folded when opened. Not SQLite: a pod's folder is often a network volume,
where SQLite's locks are not to be trusted and an append is. One writer at a time; it holds no file contents.

An entry goes hashed → uploading (with its finished parts) → uploaded → registered.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

import msgspec

from pod_worker.artifacts.wire import StoredPart
from pod_worker.core.stage import Artifact

_COMPACT_LINES = 1000  # superfluous lines before the file is rewritten


class UploadState(StrEnum):
    HASHED = "hashed"
    UPLOADING = "uploading"
    UPLOADED = "uploaded"
    REGISTERED = "registered"


@dataclass(frozen=True, slots=True)
class UploadRecord:
    """The same bytes of the same kind are one entry, whatever the file is called."""

    kind: str
    sha256: str
    bytes: int
    state: UploadState = UploadState.HASHED
    attempt: int = 0  # the one that last moved it
    key: str | None = None
    upload_id: str | None = None
    part_bytes: int | None = None
    parts: dict[int, str] = field(default_factory=dict)  # number -> etag, as the store gave it
    artifact: Artifact | None = None

    @property
    def stored_parts(self) -> list[StoredPart]:
        return [StoredPart(number=number, etag=self.parts[number]) for number in sorted(self.parts)]


class _Part(msgspec.Struct, frozen=True):
    """One finished part: appended alone, for an upload may have ten thousand."""

    kind: str
    sha256: str
    upload_id: str
    part: int
    etag: str


class UploadLedger:
    """Entries by (kind, sha256). Every write is on disk before it returns."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._entries: dict[tuple[str, str], UploadRecord] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        lines, torn = self._load()
        if torn or lines > len(self._entries) + _COMPACT_LINES:
            self._compact()

    def find(self, kind: str, sha256: str) -> UploadRecord | None:
        with self._lock:
            return self._entries.get((kind, sha256))

    def entries(self) -> list[UploadRecord]:
        with self._lock:
            return list(self._entries.values())

    def put(self, entry: UploadRecord) -> UploadRecord:
        """Record the entry as it is now, in place of what was known."""
        with self._lock:
            self._append(msgspec.json.encode(entry))
            self._entries[entry.kind, entry.sha256] = entry
        return entry

    def part(self, entry: UploadRecord, number: int, etag: str) -> UploadRecord:
        """Record one finished part of `entry`'s upload."""
        grown = replace(entry, parts={**entry.parts, number: etag})
        with self._lock:
            self._append(msgspec.json.encode(_Part(entry.kind, entry.sha256, entry.upload_id or "", number, etag)))
            self._entries[entry.kind, entry.sha256] = grown
        return grown

    def _load(self) -> tuple[int, bool]:
        """(lines read, whether the last one was torn by a crash).

        An unreadable line counts as not written: at worst something is uploaded again, and the registry
        knows it by its hash.
        """
        if not self._path.exists():
            return 0, False
        content = self._path.read_bytes()
        lines = content.split(b"\n")
        for line in lines:
            self._fold(line)
        return len(lines) - 1, not content.endswith(b"\n") and content != b""

    def _fold(self, line: bytes) -> None:
        try:
            fact = _decode(line)
        except msgspec.MsgspecError:
            return
        if isinstance(fact, UploadRecord):
            self._entries[fact.kind, fact.sha256] = fact
            return
        entry = self._entries.get((fact.kind, fact.sha256))
        if entry is not None and entry.upload_id == fact.upload_id:
            entry.parts[fact.part] = fact.etag

    def _append(self, line: bytes) -> None:
        with open(self._path, "ab", buffering=0) as file:
            file.write(line + b"\n")
            os.fsync(file.fileno())

    def _compact(self) -> None:
        fresh = self._path.with_name(self._path.name + ".new")
        with open(fresh, "wb") as file:
            file.writelines(msgspec.json.encode(entry) + b"\n" for entry in self._entries.values())
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, self._path)
        sync_folder(self._path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _decode(line: bytes) -> UploadRecord | _Part:
    if b'"etag"' in line and b'"upload_id"' in line and b'"part":' in line:
        return msgspec.json.decode(line, type=_Part)
    return msgspec.json.decode(line, type=UploadRecord)
