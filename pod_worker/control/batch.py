"""The lines of one request on their way in, and the verdict each one gets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec

from pod_worker.control.arrival import Arrival, Verdict
from pod_worker.control.wire import Refused, read_line

Source: TypeAlias = tuple[int, bytes]  # number of the line, from 1, and the line


class Line(msgspec.Struct, frozen=True):
    """One line's fate. `number` counts from 1."""

    number: int
    verdict: Verdict
    event_id: str | None = None
    code: str | None = None
    error: str | None = None


@dataclass(slots=True)
class Batch:
    """The lines of one request, read. `sources` says where each arrival came from, place by place."""

    arrivals: list[Arrival] = field(default_factory=list)
    sources: Sequence[Source] = ()
    refused: list[tuple[int, bytes, Refused]] = field(default_factory=list)

    def counts(self) -> Counter[Verdict]:
        counts = Counter([each.verdict for each in self.arrivals])
        counts[Verdict.INVALID] = len(self.refused)
        return counts

    def lines(self) -> list[Line]:
        pairs = zip(self.sources, self.arrivals, strict=True)
        good = [Line(number, each.verdict, each.event.id) for (number, _), each in pairs]
        bad = [Line(number, Verdict.INVALID, why.event_id, why.code, why.error) for number, _, why in self.refused]
        return sorted(good + bad, key=lambda line: line.number) if bad else good

    def json_bytes(self) -> int:
        return sum([len(line) for _, line in self.sources])

    def refuse(self, odd: Mapping[int, Refused]) -> None:
        """Turn arrivals (by their `id()`) into refused lines."""
        pairs = list(zip(self.sources, self.arrivals, strict=True))
        self.refused += [(*source, odd[id(each)]) for source, each in pairs if id(each) in odd]
        kept = [pair for pair in pairs if id(pair[1]) not in odd]
        self.sources, self.arrivals = [source for source, _ in kept], [each for _, each in kept]


def read_batch(lines: Sequence[Source]) -> Batch:
    """Touches nothing."""
    batch = Batch(sources=lines)
    read = batch.arrivals.append
    for number, line in lines:
        try:
            read(read_line(line))
        except Refused as why:
            batch.refused.append((number, line, why))
    if batch.refused:
        bad = {number for number, _, _ in batch.refused}
        batch.sources = [source for source in lines if source[0] not in bad]
    return batch


def batch_of(arrivals: Sequence[Arrival]) -> Batch:
    """The same for events that were read elsewhere."""
    return Batch(list(arrivals), [(number, b"") for number in range(1, len(arrivals) + 1)])


def refused_batch(line: bytes, why: Refused) -> Batch:
    return Batch(refused=[(1, line, why)])
