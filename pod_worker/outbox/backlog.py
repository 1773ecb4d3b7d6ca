"""What of one stream is not yet acknowledged, in the order in which it should go.

Facts before samples when there is more than one batch, by seq within a batch. It reads files and moves the
stream's cursor; what an answer means is the shipper's business.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from pod_worker.outbox.cursor import Cursor, Span, complete_bytes, has_cursor, load_cursor

_SEQ = b'{"specversion":"1.0","seq":'
_NO_SEQ = 1 << 62
_HELD_LIMIT = 1000
_LOOK_SECONDS = 5.0
_DISK_TICK_SECONDS = 0.1  # file times may stand still for some milliseconds; be generous


@dataclass(frozen=True, slots=True)
class SpooledLine:
    span: Span
    data: bytes  # newline included

    @property
    def seq(self) -> int:
        """Events without one sort last."""
        if not self.data.startswith(_SEQ):
            return _NO_SEQ
        return int(self.data[len(_SEQ) : self.data.index(b",", len(_SEQ))])


class Backlog:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._cursor: Cursor = load_cursor(directory)
        self._is_saved = True
        self._head = str(directory / "head")
        self._written = 0  # the header's modification time, in ns
        self._written_seen_at = self._empty_at = self._look_again_at = 0.0
        self.waiting_since: float | None = None  # monotonic: when its oldest line was first seen, for the shipper

    def is_quiet(self, now: float) -> bool:
        """Whether a look would find nothing, at the price of one stat: most streams are quiet for ever.

        Crashes and lines set aside leave the header alone: for those there is a look now and then all the same.
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
        if not self._cursor.held:
            self._empty_at = now

    def sizes(self) -> dict[str, int]:
        """Bytes of each segment, in sending order: facts, set-aside lines, samples, each oldest first."""
        try:
            entries = [entry for entry in os.scandir(self.directory) if entry.name.endswith(".ndjson")]
        except FileNotFoundError:
            return {}
        found = {}
        for entry in sorted(entries, key=lambda entry: (entry.name.startswith("samples"), entry.name)):
            try:
                found[entry.name] = entry.stat().st_size
            except FileNotFoundError:  # thinned just now
                continue
        return found

    def next_lines(self, max_lines: int, max_bytes: int, with_deferred: bool) -> list[SpooledLine]:
        """The next unacknowledged lines; those held back come along when `with_deferred`."""
        if self._is_saved and self._cursor.offsets and not has_cursor(self.directory):
            self._cursor = Cursor()  # the folder was pruned and begun anew: the same names, other lines
        sizes = self.sizes()
        self._forget_missing(sizes)
        lines: list[SpooledLine] = []
        if with_deferred:
            lines = self._read_held(max_lines)
        for name, size in sizes.items():
            start = self._cursor.offsets.get(name, 0)
            if size <= start or len(self._cursor.held) >= _HELD_LIMIT:
                continue
            room = max_bytes - sum(len(line.data) for line in lines)
            lines += self._read(name, start, max_lines - len(lines), room, bool(lines))
            if len(lines) >= max_lines:
                break
        return sorted(lines, key=lambda line: line.seq)

    def acknowledge(self, lines: Collection[SpooledLine], deferred: Collection[SpooledLine]) -> None:
        """Move past `lines`, all answered; those `deferred` are held for another time."""
        answered = {line.span for line in lines}
        held = [span for span in self._cursor.held if span not in answered]
        offsets = dict(self._cursor.offsets)
        for span in answered:
            offsets[span.file] = max(offsets.get(span.file, 0), span.end)
        self._cursor = Cursor(offsets, held + [line.span for line in deferred])
        self._is_saved = False
        self.save()

    def save(self) -> None:
        """Write the cursor if it is not on disk yet. A full disk only means that a crash would send again."""
        if self._is_saved:
            return
        try:
            self._cursor.save(self.directory)
            self._is_saved = True
        except OSError:
            pass

    def complete_sizes(self) -> dict[str, int]:
        """What `is_acknowledged` may be asked for: a line that a crash tore is never going to be delivered."""
        return {name: complete_bytes(self.directory / name) for name in self.sizes()}

    def is_acknowledged(self, sizes: dict[str, int]) -> bool:
        """Whether everything up to `sizes` is acknowledged (or was thinned, or refused for good)."""
        cursor = self._cursor
        return all(
            cursor.is_acknowledged(name, size) for name, size in sizes.items() if (self.directory / name).exists()
        )

    def pending_bytes(self) -> int:
        cursor = self._cursor
        return sum(max(0, size - cursor.offsets.get(name, 0)) for name, size in self.sizes().items()) + sum(
            span.end - span.start for span in cursor.held
        )

    def has_held(self) -> bool:
        return bool(self._cursor.held)

    def _read(self, name: str, start: int, max_lines: int, max_bytes: int, has_some: bool) -> list[SpooledLine]:
        """Whole lines from `start`. A first line longer than `max_bytes` is read if nothing else is sent."""
        data = self._bytes(name, start, max(max_bytes, 0))
        if b"\n" not in data and not has_some:
            data = self._bytes(name, start, -1)
        lines = []
        for text in data[: data.rfind(b"\n") + 1].split(b"\n")[:-1][:max_lines]:
            end = start + len(text) + 1
            if text:
                lines.append(SpooledLine(Span(name, start, end), text + b"\n"))
            start = end
        return lines

    def _read_held(self, max_lines: int) -> list[SpooledLine]:
        spans = self._cursor.held[:max_lines]
        found = [SpooledLine(span, self._bytes(span.file, span.start, span.end - span.start)) for span in spans]
        return [line for line in found if line.data]

    def _bytes(self, name: str, start: int, count: int) -> bytes:
        try:
            with open(self.directory / name, "rb") as file:
                file.seek(start)
                return file.read(count)
        except FileNotFoundError:
            return b""

    def _forget_missing(self, sizes: dict[str, int]) -> None:
        cursor = self._cursor
        if cursor.offsets.keys() <= sizes.keys() and all(span.file in sizes for span in cursor.held):
            return
        offsets = {name: offset for name, offset in cursor.offsets.items() if name in sizes}
        self._cursor = Cursor(offsets, [span for span in cursor.held if span.file in sizes])
