"""Events that are in the log already, as ones that count for the views."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pod_worker.control.events.decoding import InvalidEventError, payload_of
from pod_worker.control.events.incoming import IncomingEvent
from pod_worker.store.events.event_log import StoredEvent


def events_for_replay(entries: Iterable[StoredEvent], attempts: Mapping[str, int]) -> list[IncomingEvent]:
    """Those of runs that exist, of attempts that have begun. `attempts` maps run ids to the current one."""
    found: list[IncomingEvent] = []
    for entry in entries:
        event, run_id = entry.event, entry.event.run_id
        current = attempts.get(run_id or "")
        if run_id is None or current is None:
            continue
        attempt = entry.attempt if entry.attempt is not None else current
        try:
            payload = payload_of(event.type, event.data)
        except InvalidEventError:  # stored by a version with other rules
            continue
        if payload is not None and attempt <= current:
            found.append(IncomingEvent(event, payload, run_id, attempt))
    return found
