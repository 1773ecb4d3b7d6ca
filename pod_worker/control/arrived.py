"""Events that count for a view, and for which attempt: what stands between the log and the projections."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from pod_worker.control.wire import Refused, payload_of
from pod_worker.core.event import Event, Version, version_of
from pod_worker.core.payload import Payload
from pod_worker.store.event_log import Entry


class Arrived(msgspec.Struct, frozen=True):
    """An event that counts, and for which attempt: its own, or the run's current one where it names none."""

    event: Event
    payload: Payload
    run_id: str
    attempt: int

    @property
    def version(self) -> Version:
        # A sequence number orders the events of one emitter in one attempt. An event without an attempt comes
        # from a foreign emitter, which may restart its count at any time, so there only time orders.
        seq = self.event.seq if self.event.attempt is not None else None
        return version_of(self.attempt, seq, self.event.time, self.event.id)


def arrived_from(entries: Iterable[Entry], attempts: Mapping[str, int]) -> list[Arrived]:
    """Stored entries as events that count: of runs that exist, of attempts that have begun."""
    found: list[Arrived] = []
    for entry in entries:
        event, run_id = entry.event, entry.event.run_id
        current = attempts.get(run_id or "")
        if run_id is None or current is None:
            continue
        attempt = entry.attempt if entry.attempt is not None else current
        try:
            payload = payload_of(event.type, event.data)
        except Refused:  # stored by a version with other rules
            continue
        if payload is not None and attempt <= current:
            found.append(Arrived(event, payload, run_id, attempt))
    return found
