"""The lines of one request on their way in, and the result of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from pod_worker.control.events.incoming import IncomingEvent, IngestResult, InvalidEventError
from pod_worker.control.web.auth import EVERY_RUN, Caller

FORBIDDEN = "forbidden"


class LineResult(msgspec.Struct, frozen=True):
    """What became of a line. `line_number` counts from 1."""

    line_number: int
    result: IngestResult
    event_id: str | None = None
    code: str | None = None
    error: str | None = None


class RefusedLine(msgspec.Struct, frozen=True):
    line_number: int
    line: bytes
    error: InvalidEventError


@dataclass(slots=True)
class IngestBatch:
    """The lines of one request.

    Each line that is not blank is in `events` or in `refused`.
    """

    events: list[IncomingEvent] = field(default_factory=list)
    lines: Sequence[bytes] = ()
    refused: list[RefusedLine] = field(default_factory=list)

    def counts(self) -> Counter[IngestResult]:
        counts = Counter([each.result for each in self.events])
        counts[IngestResult.INVALID] = len(self.refused)
        return counts

    def line_results(self) -> list[LineResult]:
        """Of every line that is not blank, in order."""
        good = [LineResult(each.line_number, each.result, each.event.id) for each in self.events]
        bad = [
            LineResult(each.line_number, IngestResult.INVALID, error.event_id, error.code, error.error)
            for each in self.refused
            if (error := each.error)
        ]
        return sorted(good + bad, key=lambda result: result.line_number) if bad else good

    def json_bytes(self) -> int:
        return sum(map(len, self.lines))

    def add_refused(self, line_number: int, error: InvalidEventError) -> None:
        self.refused.append(RefusedLine(line_number, self.lines[line_number - 1], error))

    def drop_refused_events(self) -> None:
        """Move the events with a `refusal` to `refused`."""
        for each in self.events:
            if each.refusal is not None:
                self.add_refused(each.line_number, each.refusal)
        self.events = [each for each in self.events if each.refusal is None]

    def restrict_to(self, caller: Caller) -> None:
        """Refuse the events that the caller may not write.

        Those of other runs, of other attempts, of no attempt.
        """
        if caller is EVERY_RUN:
            return
        own = (caller.run_id, caller.attempt)
        others = [each for each in self.events if (each.run_id, each.event.attempt) != own]
        if not others:  # as a shipper's batches are
            return
        error = f"this token writes events of attempt {caller.attempt} of run {str(caller.run_id)[:100]!r} only"
        for each in others:
            if not caller.may_write(each.run_id, each.event.attempt):
                each.refusal = InvalidEventError(FORBIDDEN, error, each.event.id)
        self.drop_refused_events()


def batch_from_events(events: Sequence[IncomingEvent]) -> IngestBatch:
    """A batch of events that were not read from lines."""
    for line_number, each in enumerate(events, 1):
        each.line_number = line_number
    return IngestBatch(list(events), [f"(event {each.event.id})".encode() for each in events])
