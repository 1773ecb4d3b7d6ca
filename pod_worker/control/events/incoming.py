"""One event on its way in, from the line it was read from to the views it changes."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from pod_worker.core.event import Event
from pod_worker.core.payload import Payload


class IngestResult(StrEnum):
    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    FENCED = "fenced"  # of another attempt than the run's: stored, and no longer able to move the run
    INVALID = "invalid"

    # An enum's own is written in Python, and every event is counted by its verdict.
    __hash__ = str.__hash__


class IncomingEvent(msgspec.Struct, gc=False):
    """A good event. `payload` is None for an `ai.*` type that this version does not know.

    Ingest fills in the rest: `attempt` is the one it counts for, `is_projected` whether the views hear of it.
    """

    event: Event
    payload: Payload | None
    run_id: str | None
    attempt: int | None = None
    is_projected: bool = False
    verdict: IngestResult = IngestResult.ACCEPTED
