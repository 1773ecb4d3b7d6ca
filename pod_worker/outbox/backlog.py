"""The unacknowledged lines of one stream, in sending order.

Facts go before samples when there is more than one batch; within a batch lines are sorted by seq. The backlog
reads files and moves the stream's cursor. The shipper decides what an answer means.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from pod_worker.outbox.cursor import Cursor, Span, complete_bytes, has_cursor, load_cursor
from pod_worker.outbox.segment_files import open_segment, segment_entries

_SEQ = b'{"specversion":"1.0","seq":'
_SEQ_DIGITS = 18
_NO_SEQ = 1 << 62
_DEFERRED_LIMIT = 1000
_LINE_LIMIT_BYTES = 2 * 1024 * 1024  # twice what `emit` writes
_BLOCK_BYTES = 64 * 1024
_LOOK_SECONDS = 5.0
_DISK_TICK_SECONDS = 0.1  # file times may stand still for some milliseconds; be generous


@dataclass(frozen=True, slots=True)
class SpooledLine:
    span: Span
    data: bytes  # newline included

    @property
    def seq(self) -> int:
        """The sort key of a line; a missing or damaged one sorts last.

        Ingest decides what becomes of such a line.
        """
        if not self.data.startswith(_SEQ):
            return _NO_SEQ
        digits = self.data[len(_SEQ) : len(_SEQ) + _SEQ_DIGITS + 1].partition(b",")[0]
        return int(digits) if digits.isdigit() and len(digits) <= _SEQ_DIGITS else _NO_SEQ


class Backlog:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._cursor: Cursor = load_cursor(directory)
        self._is_saved = True
        self._head = str(directory / "head")
        self._written = 0  # the header's modification time, in ns
        self._written_seen_at = self._empty_at = self._look_again_at = 0.0
        self.waiting_since: float | None = None  # monotonic: when its oldest line was first seen, for the shipper
        self.retry_at = 0.0  # monotonic: when a stream that could not be read is tried again, for the shipper

    def is_quiet(self, now: float) -> bool:
        """Whether a look would find nothing; costs one stat.

        A crash and a line in the overflow leave the header unchanged, so a look takes place now and then anyway.
        """
        try:
            written = os.stat(self._head).st_mtime_ns
        except FileNotFoundError:
            return False
        if written != self._written or now >= self._look_again_at:
            self._written, self._written_seen_at = written, now
            self._look_again_at = now + _LOOK_SECONDS
        return self._empty_at >= self._written_seen_at + _DISK_TICK_SECONDS

    def record_empty(self, now: float) -> None:
        """A look found nothing to send."""
        if not self._cursor.deferred:
            self._empty_at = now

    def sizes(self) -> dict[str, int]:
        """Bytes of each segment, in sending order.

        The order is facts, overflow, samples, each oldest first.
        """
        found = {}
        for entry in segment_entries(self.directory):
            try:
                found[entry.name] = entry.stat(follow_symlinks=False).st_size
            except FileNotFoundError:  # evicted just now
                continue
        return found

    def next_lines(self, max_lines: int, max_bytes: int, with_deferred: bool) -> list[SpooledLine]:
        """The next unacknowledged lines, deferred ones included when `with_deferred`."""
        if self._is_saved and self._cursor.offsets and not has_cursor(self.directory):
            self._cursor = Cursor()  # the folder was pruned and created again: the same names, other lines
        sizes = self.sizes()
        self._forget_missing(sizes)
        lines: list[SpooledLine] = []
        if with_deferred:
            lines = self._read_deferred(max_lines)
        for name, size in sizes.items():
            start = self._cursor.offsets.get(name, 0)
            if size <= start or len(self._cursor.deferred) >= _DEFERRED_LIMIT:
                continue
            room = max_bytes - sum(len(line.data) for line in lines)
            lines += self._read(name, start, max_lines - len(lines), room, bool(lines))
            if len(lines) >= max_lines:
                break
        return sorted(lines, key=lambda line: line.seq)

    def acknowledge(self, lines: Collection[SpooledLine], deferred: Collection[SpooledLine]) -> None:
        """Move past `lines`, all answered; those in `deferred` are sent again later."""
        answered = {line.span for line in lines}
        still_deferred = [span for span in self._cursor.deferred if span not in answered]
        offsets = dict(self._cursor.offsets)
        for span in answered:
            offsets[span.file] = max(offsets.get(span.file, 0), span.end)
        self._cursor = Cursor(offsets, still_deferred + [line.span for line in deferred])
        self._is_saved = False
        self.save()

    def save(self) -> None:
        """Write the cursor if it is not on disk yet.

        A full disk only means that a crash would send again.
        """
        if self._is_saved:
            return
        try:
            self._cursor.save(self.directory)
            self._is_saved = True
        except OSError:
            pass

    def complete_sizes(self) -> dict[str, int]:
        """What `is_acknowledged` may be asked for.

        A torn last line does not count: it is never delivered.
        """
        return {name: complete_bytes(self.directory / name) for name in self.sizes()}

    def is_acknowledged(self, sizes: dict[str, int]) -> bool:
        """Whether everything up to `sizes` is acknowledged, evicted or rejected for good."""
        cursor = self._cursor
        return all(
            cursor.is_acknowledged(name, size) for name, size in sizes.items() if (self.directory / name).exists()
        )

    def pending_bytes(self) -> int:
        cursor = self._cursor
        return sum(max(0, size - cursor.offsets.get(name, 0)) for name, size in self.sizes().items()) + sum(
            span.end - span.start for span in cursor.deferred
        )

    def has_deferred(self) -> bool:
        return bool(self._cursor.deferred)

    def _read(self, name: str, start: int, max_lines: int, max_bytes: int, has_some: bool) -> list[SpooledLine]:
        """Whole lines from `start`.

        A first line longer than `max_bytes` is read if nothing else is sent.
        """
        data = self._bytes(name, start, max(max_bytes, 0))
        if b"\n" not in data and not has_some:
            data = self._bytes(name, start, _LINE_LIMIT_BYTES)
            if len(data) == _LINE_LIMIT_BYTES and b"\n" not in data:
                return self._read_oversized(name, start)
        lines = []
        for text in data[: data.rfind(b"\n") + 1].split(b"\n")[:-1][:max_lines]:
            end = start + len(text) + 1
            if text:
                lines.append(SpooledLine(Span(name, start, end), text + b"\n"))
            start = end
        return lines

    def _read_oversized(self, name: str, start: int) -> list[SpooledLine]:
        """The beginning of a line that `emit` cannot have written, for ingest to reject."""
        with open_segment(self.directory / name) as file:
            end = file.seek(start)
            while block := file.read(_BLOCK_BYTES):
                newline = block.find(b"\n")
                if newline >= 0:
                    span = Span(name, start, end + newline + 1)
                    return [SpooledLine(span, self._bytes(name, start, _BLOCK_BYTES) + b"\n")]
                end += len(block)
        return []

    def _read_deferred(self, max_lines: int) -> list[SpooledLine]:
        found = [
            SpooledLine(span, self._bytes(span.file, span.start, min(span.end - span.start, _LINE_LIMIT_BYTES)))
            for span in self._cursor.deferred[:max_lines]
        ]
        return [line for line in found if line.data]

    def _bytes(self, name: str, start: int, count: int) -> bytes:
        try:
            with open_segment(self.directory / name) as file:
                file.seek(start)
                return file.read(count)
        except FileNotFoundError:
            return b""

    def _forget_missing(self, sizes: dict[str, int]) -> None:
        cursor = self._cursor
        if cursor.offsets.keys() <= sizes.keys() and all(span.file in sizes for span in cursor.deferred):
            return
        offsets = {name: offset for name, offset in cursor.offsets.items() if name in sizes}
        self._cursor = Cursor(offsets, [span for span in cursor.deferred if span.file in sizes])
