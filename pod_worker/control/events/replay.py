"""The views again, from the event log alone: the same projections over the same events.

Safe while the run goes on. What the log no longer holds (heartbeats, samples older than thirty days) stays as
it is; what the queue and verified uploads wrote is not touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

from pod_worker.control.events.projections import project
from pod_worker.control.events.replayed import events_for_replay
from pod_worker.store.events.event_log import EventLog
from pod_worker.store.mongo import Mongo
from pod_worker.store.views.writer import Views

BATCH = 1000


def rebuild(database: Mongo, run_id: str) -> int:
    """Returns how many events counted; 0 for a run that does not exist."""
    views = Views(database)
    attempts = views.current_attempts([run_id])
    if not attempts:
        return 0
    views.clear_projected(run_id)
    counted = _replay(database, views, run_id, attempts)
    views.series.compact(run_id)
    return counted


def rebuild_all(database: Mongo) -> dict[str, int]:
    """Every run that has events: run id -> how many counted."""
    return {run_id: rebuild(database, run_id) for run_id in EventLog(database).run_ids()}


def replay_since(database: Mongo, run_id: str, since: int) -> int:
    """Project the run's events from a position in the log on, over what is there. Returns how many counted."""
    views = Views(database)
    return _replay(database, views, run_id, views.current_attempts([run_id]), since)


def _replay(database: Mongo, views: Views, run_id: str, attempts: Mapping[str, int], since: int = 0) -> int:
    entries, counted = EventLog(database).replay(run_id, since), 0
    while batch := list(islice(entries, BATCH)):
        arrivals = events_for_replay(batch, attempts)
        views.apply(project(arrivals))
        counted += len(arrivals)
    return counted
