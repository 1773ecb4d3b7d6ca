"""Keeping a spool within its bound: what has been delivered goes first, then the oldest closed samples.

Facts (a run's life: started, stages, artifacts, outcome) that ingest has not taken are never removed, nor is
a segment that is still being written. What was thinned is counted, so that the run's log can say so.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pod_worker.outbox.cursor import Cursor, complete_bytes, load_cursor
from pod_worker.outbox.stream import FACTS, LANES, read_head


@dataclass(frozen=True, slots=True)
class Segment:
    path: Path
    lane: str  # facts, samples or aside
    bytes: int
    written_at: float  # seconds since the epoch
    is_closed: bool
    is_acked: bool


@dataclass(frozen=True, slots=True)
class DroppedSamples:
    """`count` events of one stream that were removed undelivered; `example` is one of their lines."""

    example: bytes
    count: int


def segments(stream: Path) -> Iterator[Segment]:
    """The segments of one stream's folder. Files that vanish meanwhile are left out."""
    head, cursor = read_head(stream), load_cursor(stream)
    current = {LANES[FACTS]: head[2], LANES[1 - FACTS]: head[4]}
    try:
        entries = list(os.scandir(stream))
    except FileNotFoundError:
        return
    for entry in entries:
        lane, _, rest = entry.name.partition(".")
        if not entry.name.endswith(".ndjson"):
            continue
        try:
            facts = entry.stat()
        except FileNotFoundError:
            continue
        is_closed = lane in current and int(rest.split(".")[0]) < current[lane]
        is_acked = cursor.is_acknowledged(entry.name, complete_bytes(Path(entry.path)))
        yield Segment(Path(entry.path), lane, facts.st_size, facts.st_mtime, is_closed, is_acked)


def evict(streams: Iterable[Path], bytes_to_free: int, may_thin: bool) -> tuple[int, list[DroppedSamples]]:
    """Remove closed segments, delivered ones first, until `bytes_to_free` are free: (bytes freed, losses)."""
    closed = sorted(
        (segment for stream in streams for segment in segments(stream) if segment.is_closed),
        key=lambda segment: segment.written_at,
    )
    delivered = [segment for segment in closed if segment.is_acked]
    samples = [segment for segment in closed if not segment.is_acked and segment.lane == "samples"]
    freed, losses = 0, []
    for segment in delivered + (samples if may_thin else []):
        if freed >= bytes_to_free:
            break
        lost = _remove(segment)
        if lost is not None:
            freed += segment.bytes
            losses += [lost] if lost.count else []
    return freed, losses


def _remove(segment: Segment) -> DroppedSamples | None:
    """None if another process was first: the rename decides who counts."""
    doomed = segment.path.with_name(f"{segment.path.name}.{os.getpid()}.gone")
    try:
        os.rename(segment.path, doomed)
    except FileNotFoundError:
        return None
    cursor: Cursor = load_cursor(segment.path.parent)
    data = b"" if segment.is_acked else doomed.read_bytes()[cursor.offsets.get(segment.path.name, 0) :]
    doomed.unlink(missing_ok=True)
    held = sum(span.file == segment.path.name for span in cursor.held)
    return DroppedSamples(data.partition(b"\n")[0], data.count(b"\n") + (held if data else 0))
