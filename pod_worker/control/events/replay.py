"""Rebuilds views from the event log: the same projections over the same events.

Safe while the run continues. Values whose events the log no longer holds (heartbeats, samples older than thirty
days) stay as they are. Fields of the queue and verified artifacts are not touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice

from pod_worker.control.events.decoding import payload_of
from pod_worker.control.events.incoming import IncomingEvent, InvalidEventError
from pod_worker.control.events.projections import project
from pod_worker.store.events.event_log import EventLog, StoredEvent
from pod_worker.store.mongo import Mongo
from pod_worker.store.views.writer import Views

BATCH = 1000


def rebuild(database: Mongo, run_id: str) -> int:
    """Rebuild one run's views; returns how many events counted.

    The result is 0 for a run that does not exist.
    """
    views = Views(database)
    attempts = views.current_attempts([run_id])
    if not attempts:
        return 0
    views.clear_projected(run_id)
    counted = _replay(database, views, run_id, attempts)
    views.series.compact(run_id)
    return counted


def replay_since(database: Mongo, run_id: str, since: int) -> int:
    """Project a run's events from a log position on; returns how many counted.

    It writes over the existing views.
    """
    views = Views(database)
    return _replay(database, views, run_id, views.current_attempts([run_id]), since)


def _replay(database: Mongo, views: Views, run_id: str, attempts: Mapping[str, int], since: int = 0) -> int:
    entries, counted = EventLog(database).replay(run_id, since), 0
    while batch := list(islice(entries, BATCH)):
        events = events_for_replay(batch, attempts)
        views.apply(project(events))
        counted += len(events)
    return counted


def events_for_replay(entries: Iterable[StoredEvent], attempts: Mapping[str, int]) -> list[IncomingEvent]:
    """Stored events that change views: of known runs and attempts that have begun.

    `attempts` maps run ids to the current attempt.
    """
    found: list[IncomingEvent] = []
    for entry in entries:
        event, run_id = entry.event, entry.event.run_id
        current = attempts.get(run_id or "")
        if run_id is None or current is None:
            continue
        counted = entry.attempt if entry.attempt is not None else current
        try:
            payload = payload_of(event.type, event.data)
        except InvalidEventError:  # stored by a version with other rules
            continue
        if payload is not None and counted <= current:
            found.append(IncomingEvent(event, payload, run_id, counted_attempt=counted))
    return found
