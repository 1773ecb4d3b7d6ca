"""The lines of one request on their way in, and the verdict each one gets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec

from pod_worker.control.wire import Arrival, Refused, read_line
from pod_worker.store.event_log import Entry


class Verdict(StrEnum):
    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    FENCED = "fenced"  # of another attempt than the run's: stored, and no longer able to move the run
    INVALID = "invalid"

    # An enum's own is written in Python, and every event is counted by its verdict.
    __hash__ = str.__hash__


class Line(msgspec.Struct, frozen=True):
    """One line's fate. `number` counts from 1."""

    number: int
    verdict: Verdict
    event_id: str | None = None
    code: str | None = None
    error: str | None = None


class Pending(msgspec.Struct):
    number: int
    arrival: Arrival
    line: bytes = b""
    attempt: int | None = None
    is_fenced: bool = False
    is_projected: bool = False
    entry: Entry | None = None  # None: not kept in the log
    verdict: Verdict = Verdict.ACCEPTED


@dataclass(slots=True)
class Batch:
    """The lines of one request, read."""

    pending: list[Pending] = field(default_factory=list)
    refused: list[tuple[int, bytes, Refused]] = field(default_factory=list)

    def counts(self) -> Counter[Verdict]:
        counts = Counter([each.verdict for each in self.pending])
        counts[Verdict.INVALID] = len(self.refused)
        return counts

    def lines(self) -> list[Line]:
        good = [Line(each.number, each.verdict, each.arrival.event.id) for each in self.pending]
        bad = [Line(number, Verdict.INVALID, why.event_id, why.code, why.error) for number, _, why in self.refused]
        return sorted(good + bad, key=lambda line: line.number) if bad else good

    def refuse(self, places: Mapping[int, Refused]) -> None:
        """Turn pending lines (by their place) into refused ones."""
        if not places:
            return
        for place, why in places.items():
            each = self.pending[place]
            self.refused.append((each.number, each.line, why))
        self.pending = [each for place, each in enumerate(self.pending) if place not in places]


def read_batch(lines: Iterable[tuple[int, bytes]]) -> Batch:
    """(line number, line) each; touches nothing."""
    batch = Batch()
    for number, line in lines:
        try:
            batch.pending.append(Pending(number, read_line(line), line))
        except Refused as why:
            batch.refused.append((number, line, why))
    return batch


def batch_of(arrivals: Sequence[Arrival]) -> Batch:
    """The same for events that were read elsewhere."""
    return Batch([Pending(number, arrival) for number, arrival in enumerate(arrivals, 1)])


def refused_batch(line: bytes, why: Refused) -> Batch:
    return Batch([], [(1, line, why)])
