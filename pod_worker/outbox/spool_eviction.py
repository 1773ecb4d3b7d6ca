"""Keeps a spool within its size limit.

Delivered segments go first, then the oldest closed samples.

Facts (a run's life: started, stages, artifacts, outcome) that ingest has not accepted are never removed, nor is
a segment that is still being written. Evicted samples are counted, so that the run's log can report them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pod_worker.outbox.cursor import Cursor, complete_bytes, load_cursor
from pod_worker.outbox.segment_files import (
    FACTS,
    LANES,
    OVERFLOW,
    SAMPLES,
    lane_of,
    number_of,
    open_segment,
    segment_entries,
)
from pod_worker.outbox.stream import read_head


@dataclass(frozen=True, slots=True)
class Segment:
    path: Path
    lane: str  # facts, samples or overflow
    bytes: int
    written_at: float  # seconds since the epoch
    is_closed: bool
    is_acked: bool


@dataclass(frozen=True, slots=True)
class DroppedSamples:
    """`count` events of one stream removed undelivered; `example` is one line."""

    stream: str
    example: bytes
    count: int


def segments(stream: Path) -> Iterator[Segment]:
    """The segments of one stream's folder. Files that vanish meanwhile are left out."""
    head, cursor = read_head(stream), load_cursor(stream)
    current = {LANES[FACTS]: head[2], LANES[SAMPLES]: head[4]}
    for entry in segment_entries(stream):
        lane = lane_of(entry.name) or OVERFLOW
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        is_closed = lane in current and number_of(entry.name) < current[lane]
        is_acked = cursor.is_acknowledged(entry.name, complete_bytes(Path(entry.path)))
        yield Segment(Path(entry.path), lane, status.st_size, status.st_mtime, is_closed, is_acked)


def evict(
    streams: Iterable[Path], bytes_to_free: int, may_drop_samples: bool
) -> tuple[int, tuple[DroppedSamples, ...]]:
    """Remove closed segments until `bytes_to_free` are free: (bytes freed, losses).

    Delivered ones go first.
    """
    closed = sorted(
        (segment for stream in streams for segment in segments(stream) if segment.is_closed),
        key=lambda segment: segment.written_at,
    )
    delivered = [segment for segment in closed if segment.is_acked]
    samples = [segment for segment in closed if not segment.is_acked and segment.lane == "samples"]
    freed, losses = 0, []
    for segment in delivered + (samples if may_drop_samples else []):
        if freed >= bytes_to_free:
            break
        loss = _remove(segment)
        if loss is not None:
            freed += segment.bytes
            losses += [loss] if loss.count else []
    return freed, tuple(losses)


def _remove(segment: Segment) -> DroppedSamples | None:
    """None if another process was first: the rename decides which one counts the loss."""
    doomed = segment.path.with_name(f"{segment.path.name}.{os.getpid()}.gone")
    try:
        os.rename(segment.path, doomed)
    except FileNotFoundError:
        return None
    cursor: Cursor = load_cursor(segment.path.parent)
    data = b""
    if not segment.is_acked:
        with open_segment(doomed) as file:
            file.seek(cursor.offsets.get(segment.path.name, 0))
            data = file.read()
    doomed.unlink(missing_ok=True)
    deferred = sum(span.file == segment.path.name for span in cursor.deferred)
    return DroppedSamples(
        segment.path.parent.name, data.partition(b"\n")[0], data.count(b"\n") + (deferred if data else 0)
    )
