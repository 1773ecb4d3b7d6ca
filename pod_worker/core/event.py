"""The CloudEvents envelope as data; the two ends of the wire encode it.

An event is an immutable fact about a subject. `seq` orders the events of one attempt and finds gaps; it is
never a reason to discard (CONTRACT section 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeAlias

from pod_worker.core.run import Json

Version: TypeAlias = tuple[int, int, int, str]  # attempt, seq, milliseconds since the year 1, event id

_FIRST = datetime.min.replace(tzinfo=UTC)
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
        """The run that is the subject; None for pods, ideations and hypotheses."""
        kind, _, name = self.subject.partition("/")
        return name if kind == "run" and name else None


def version_of(attempt: int, seq: int | None, time: datetime, event_id: str) -> Version:
    """The version of a projected value: which event wrote it.

    A total order, so a larger one overwriting a smaller one gives the same view whatever the order of arrival.
    `time` is UTC and counts to the millisecond: the event log keeps no more, and an event that is read back from
    it (a replay, a duplicate) must come to the same version.
    """
    elapsed = time - _FIRST
    # Faster than dividing by a timedelta; a batch of events calls this for each of them.
    milliseconds = elapsed.days * 86_400_000 + elapsed.seconds * 1000 + elapsed.microseconds // 1000
    return attempt, seq or 0, milliseconds, event_id


def sortable_version(version: Version) -> str:
    """The version as a string that sorts in the same order."""
    attempt, seq, milliseconds, event_id = version
    return f"{attempt:08d}.{seq:012d}.{milliseconds:015d}.{event_id}"
