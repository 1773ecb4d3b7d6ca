"""The journal: each decision and result of a search, on disk before it counts.

One JSON object a line: {"n": position, "record": {…}, "sum": checksum}. A line is written with one system call
and flushed to the disk before `append` returns. Programs lie beside it in files named by their SHA-256, written
before the record that names them. The journal is the checkpoint of the search: a copy of its file, followed by a
copy of its code folder, resumes on another machine.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.search.tree.records import VERSION, AnyRecord, SearchStarted
from pod_worker.search.tree.state import SearchState, apply, replay

JOURNAL_NAME = "journal.ndjson"
CODE_FOLDER = "code"


class Journal:
    """One writer at a time; use `Journal.open`."""

    def __init__(self, folder: Path, fd: int, records: list[AnyRecord], size: int) -> None:
        self.folder = folder
        self._fd = fd
        self._records = records
        self._size = size
        self.state = replay(records)

    @classmethod
    def open(cls, folder: Path, seed: int) -> Journal:
        """Read or create the journal of a search; a line cut by a crash is removed.

        Raises RunError: ENVIRONMENT for a damaged file or a second writer, INVALID_INPUT for another seed.
        """
        (folder / CODE_FOLDER).mkdir(parents=True, exist_ok=True)
        path = folder / JOURNAL_NAME
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            _lock(fd, path)
            records, size = whole_records(path.read_bytes(), path)
            os.ftruncate(fd, size)
            os.fsync(fd)
            _flush_folder(folder)
            journal = cls(folder, fd, records, size)
            journal._claim_seed(seed)
        except BaseException:
            os.close(fd)
            raise
        return journal

    def append(self, record: AnyRecord) -> SearchState:
        """The state with the record, once the record is on the disk.

        Raises OSError; the journal is then as it was.
        """
        line = encode_line(len(self._records), record)
        state = apply(self.state, record)  # a record that does not fit is never written
        try:
            self._write(line)
        except BaseException:
            os.ftruncate(self._fd, self._size)
            raise
        self._size += len(line)
        self._records.append(record)
        self.state = state
        return state

    def state_at(self, position: int) -> SearchState:
        """The state after the first `position` records."""
        return replay(self._records[:position])

    def store_code(self, code: str) -> str:
        """The SHA-256 of a program, once its file is on the disk."""
        data = code.encode()
        name = hashlib.sha256(data).hexdigest()
        path = self.folder / CODE_FOLDER / f"{name}.py"
        if not path.exists():
            partial = path.with_suffix(".partial")
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
            _flush_folder(path.parent)
        return name

    def read_code(self, name: str) -> str:
        """Raises RunError(ENVIRONMENT) when the program is lost or damaged."""
        return read_code(self.folder, name)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, line: bytes) -> None:
        rest = memoryview(line)
        while rest:
            rest = rest[os.write(self._fd, rest) :]
        os.fsync(self._fd)

    def _claim_seed(self, seed: int) -> None:
        if self.state.seed is None:
            self.append(SearchStarted(version=VERSION, seed=seed))
        elif self.state.seed != seed:
            raise RunError(
                FailureCode.INVALID_INPUT,
                f"the search was started with seed {self.state.seed}, not {seed}; use that seed or another folder",
            )


def read_state(folder: Path) -> SearchState:
    """The state of a search that another process may be writing."""
    path = folder / JOURNAL_NAME
    return replay(whole_records(path.read_bytes(), path)[0])


def read_code(folder: Path, name: str) -> str:
    """A stored program; raises RunError(ENVIRONMENT) when it is lost or damaged."""
    path = folder / CODE_FOLDER / f"{name}.py"
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        data = b""
    if hashlib.sha256(data).hexdigest() != name:
        raise RunError(
            FailureCode.ENVIRONMENT, f"the program {path} is lost or damaged; restore it or start again"
        )
    return data.decode()


def encode_line(position: int, record: AnyRecord) -> bytes:
    body = msgspec.json.encode(record)
    return b'{"n":%d,"record":%s,"sum":"%s"}\n' % (position, body, _checksum(position, body))


def _checksum(position: int, body: bytes) -> bytes:
    return hashlib.blake2b(b"%d " % position + body, digest_size=8).hexdigest().encode()


class _Line(msgspec.Struct):
    n: int
    record: msgspec.Raw
    sum: str


def _decode_line(line: bytes) -> tuple[int, AnyRecord] | None:
    try:
        read = msgspec.json.decode(line, type=_Line)
        body = bytes(read.record)
        if read.sum.encode() != _checksum(read.n, body):
            return None
        return read.n, msgspec.json.decode(body, type=AnyRecord)
    except (msgspec.DecodeError, UnicodeError):
        return None


def whole_records(data: bytes, path: Path) -> tuple[list[AnyRecord], int]:
    """The records, and the bytes that they take; what follows was cut by a crash."""
    records: list[AnyRecord] = []
    size = 0
    while (end := data.find(b"\n", size)) >= 0:
        read = _decode_line(data[size : end + 1])
        if read is None or read[0] != len(records):
            break
        records.append(read[1])
        size = end + 1
    _refuse_damage(data[size:], len(records), path)
    return records, size


def _refuse_damage(rest: bytes, position: int, path: Path) -> None:
    """A crash cuts the last line; a whole line after that one means lost records."""
    *lines, _unfinished = rest.split(b"\n")
    if any(_decode_line(line) for line in lines):
        raise RunError(
            FailureCode.ENVIRONMENT,
            f"{path} is damaged at record {position}, with whole records after it; restore a copy of the journal",
        )


def _lock(fd: int, path: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RunError(
            FailureCode.ENVIRONMENT, f"another process writes {path}; wait for its end or end it"
        ) from None


def _flush_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
