"""One event on its way in: from the line it was read from to the views it changes."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from pod_worker.core.event import Event
from pod_worker.core.payload import Payload


class InvalidEventError(ValueError):
    """The reason why a line is refused. `code` is for programs, the text for people."""

    def __init__(self, code: str, error: str, event_id: str | None = None) -> None:
        super().__init__(error)
        self.code, self.error, self.event_id = code, error, event_id


class IngestResult(StrEnum):
    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    FENCED = "fenced"  # of another attempt than the run's current one: stored, cannot move the run
    INVALID = "invalid"

    # An enum's own is written in Python, and every event is counted by its result.
    __hash__ = str.__hash__


class IncomingEvent(msgspec.Struct, gc=False):
    """A valid event; `payload` is None for an `ai.*` type that is not known here.

    `line_number` counts from 1 in its request. `event.attempt` is what the emitter sent. Ingest fills in the
    rest: `counted_attempt`, whose views the event may change; `is_projected`, whether it changes views at all;
    `refusal`, why the event is refused after all.
    """

    event: Event
    payload: Payload | None
    run_id: str | None
    line_number: int = 1
    counted_attempt: int | None = None
    is_projected: bool = False
    result: IngestResult = IngestResult.ACCEPTED
    refusal: InvalidEventError | None = None
