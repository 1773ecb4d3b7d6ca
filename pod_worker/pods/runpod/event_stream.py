"""Server-sent events from lines: `id` and `data`, as RunPod's log stream uses.

An event that the connection cut off in the middle is dropped: the reader resumes at the last whole one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StreamEvent:
    id: str
    data: str


def events(lines: Iterable[str]) -> Iterator[StreamEvent]:
    event_id, data = "", list[str]()
    for line in lines:
        if not line:
            if data:
                yield StreamEvent(event_id, "\n".join(data))
            data = []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            data.append(value)
        elif field == "id":
            event_id = value
