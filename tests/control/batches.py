"""Events straight into an ingest, without HTTP."""

from __future__ import annotations

from pod_worker.control.batch import Line, batch_of
from pod_worker.control.ingest import Ingest
from pod_worker.control.wire import Arrival


def take(ingest: Ingest, *arrivals: Arrival) -> list[Line]:
    return ingest.take(batch_of(arrivals))
