"""The version of a projected fact survives the event log, or a replay would write other versions than ingest."""

from __future__ import annotations

from datetime import UTC, datetime

import bson

from pod_worker.control.events.incoming import IncomingEvent
from pod_worker.control.events.projections import project
from pod_worker.core.event import Event, Version
from pod_worker.core.payload import RunCompleted
from pod_worker.store.views.changes import View


def test_an_event_read_back_from_the_log_has_the_version_it_had_on_arrival() -> None:
    arrived = datetime(2026, 1, 1, 10, 0, 0, 123_456, tzinfo=UTC)
    options = bson.CodecOptions(tz_aware=True)  # type: ignore[var-annotated]
    stored = bson.decode(bson.encode({"time": arrived}), options)["time"]

    assert stored != arrived
    assert _version(stored) == _version(arrived)


def _version(time: datetime) -> Version:
    event = Event("id", "source", "ai.run.completed", "run/r", time, {}, seq=3, attempt=1)
    changes = project([IncomingEvent(event, RunCompleted(total_duration_s=1.0), "r", counted_attempt=1)])
    return changes.rows[View.RUN, "r", ""].newest["duration"][0]
