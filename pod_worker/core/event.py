"""The CloudEvents envelope as data. Encoding to and from JSON lives with the two ends that need it.

An event is an immutable fact about a subject. `seq` orders the events of one attempt and finds gaps; it is
never a reason to discard (CONTRACT section 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pod_worker.core.run import Json

_FIRST = datetime.min.replace(tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
SPEC_VERSION = "1.0"
ID_LIMIT = 256


# Without slots, which double the time that msgspec takes to make one.
@dataclass(frozen=True)
class Event:
    id: str
    source: str
    type: str
    subject: str
    time: datetime
    data: dict[str, Json]
    seq: int | None = None
    attempt: int | None = None
    traceparent: str | None = None

    @property
    def run_id(self) -> str | None:
        """The run this is about, or None for pods, ideations and hypotheses."""
        kind, _, name = self.subject.partition("/")
        return name if kind == "run" and name else None


def version_key(attempt: int, seq: int | None, time: datetime, event_id: str) -> str:
    """A string that sorts as (attempt, seq, time, id): what a projected scalar carries to say who wrote it.

    A total order, so a larger one overwriting a smaller one gives the same view whatever the order of arrival.
    `time` is UTC and counts to the millisecond: the event log keeps no more, and an event that is read back from
    it (a replay, a duplicate) must come to the same version.
    """
    # Counted, because this is done for every event and writing a date takes longer than all the rest.
    return f"{attempt:08d}.{seq or 0:012d}.{(time - _FIRST) // _MILLISECOND:015d}.{event_id}"
