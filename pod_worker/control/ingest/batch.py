"""The lines of one request on their way in, and the verdict each one gets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from pod_worker.control.events.decoding import InvalidEventError, read_line
from pod_worker.control.events.incoming import IncomingEvent, IngestResult
from pod_worker.control.web.auth import EVERY_RUN, Caller
from pod_worker.control.web.body import is_blank

FORBIDDEN = "forbidden"


class LineResult(msgspec.Struct, frozen=True):
    """What became of a line. `number` counts from 1."""

    number: int
    verdict: IngestResult
    event_id: str | None = None
    code: str | None = None
    error: str | None = None


@dataclass(slots=True)
class IngestBatch:
    """The lines of one request, read: what is not refused (and not blank) became the arrivals, in this order."""

    arrivals: list[IncomingEvent] = field(default_factory=list)
    lines: Sequence[bytes] = ()
    refused: list[tuple[int, bytes, InvalidEventError]] = field(default_factory=list)

    def counts(self) -> Counter[IngestResult]:
        counts = Counter([each.verdict for each in self.arrivals])
        counts[IngestResult.INVALID] = len(self.refused)
        return counts

    def line_results(self) -> list[LineResult]:
        """Of every line that is not blank, in order."""
        good = [LineResult(number, each.verdict, each.event.id) for number, each in self._numbered()]
        bad = [
            LineResult(number, IngestResult.INVALID, why.event_id, why.code, why.error)
            for number, _, why in self.refused
        ]
        return sorted(good + bad, key=lambda fate: fate.number) if bad else good

    def json_bytes(self) -> int:
        return sum(map(len, self.lines))

    def reject(self, rejected_by_id: Mapping[int, InvalidEventError]) -> None:
        """Turn arrivals (by their `id()`) into refused lines."""
        for number, each in self._numbered():
            if id(each) in rejected_by_id:
                self.refused.append((number, self.lines[number - 1], rejected_by_id[id(each)]))
        self.arrivals = [each for each in self.arrivals if id(each) not in rejected_by_id]

    def _numbered(self) -> list[tuple[int, IncomingEvent]]:
        refused = {number for number, _, _ in self.refused}
        told = (number for number, line in enumerate(self.lines, 1) if not is_blank(line))
        return list(zip((number for number in told if number not in refused), self.arrivals, strict=True))


def read_batch(lines: Sequence[bytes]) -> IngestBatch:
    """Touches nothing."""
    batch = IngestBatch(lines=lines)
    read = batch.arrivals.append
    for number, line in enumerate(lines, 1):
        if is_blank(line):
            continue
        try:
            read(read_line(line))
        except InvalidEventError as why:
            batch.refused.append((number, line, why))
    return batch


def batch_from_events(arrivals: Sequence[IncomingEvent]) -> IngestBatch:
    """The same for events that were read elsewhere."""
    return IngestBatch(list(arrivals), [f"(event {each.event.id})".encode() for each in arrivals])


def invalid_batch(line: bytes, why: InvalidEventError) -> IngestBatch:
    return IngestBatch([], [line], [(1, line, why)])


def restrict_to_caller(batch: IngestBatch, caller: Caller) -> None:
    """Refuse the lines that the caller may not write: those of other runs and attempts, and of no attempt."""
    if caller is EVERY_RUN:
        return
    error = f"this token writes events of attempt {caller.attempt} of run {caller.run_id} only"
    batch.reject(
        {
            id(each): InvalidEventError(FORBIDDEN, error, each.event.id)
            for each in batch.arrivals
            if not caller.may_write(each.run_id, each.event.attempt)
        }
    )
