"""Events straight into an ingest, without HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from pod_worker.control.events.incoming import IncomingEvent
from pod_worker.control.ingest.batch import IngestBatch, LineResult, batch_from_events
from pod_worker.control.ingest.service import Ingest
from pod_worker.control.metrics import ControlPlaneMetrics
from pod_worker.core.clock import Clock, SystemClock
from pod_worker.store.queue.stats import QueueStats


def take(database: Any, *batches: IngestBatch, clock: Clock | None = None) -> list[LineResult]:
    """Ingest one batch after the other; the result of all their lines."""
    return asyncio.run(_taken(database, batches, clock or SystemClock()))


async def _taken(database: Any, batches: Sequence[IngestBatch], clock: Clock) -> list[LineResult]:
    ingest = Ingest(database, clock, ControlPlaneMetrics(QueueStats))
    try:
        for batch in batches:
            await ingest.ingest([batch])
        await asyncio.to_thread(ingest.projector.wait_until_projected, 120)
        return [result for batch in batches for result in batch.line_results()]
    finally:
        await ingest.close()


def ingest_events(database: Any, *arrivals: IncomingEvent, clock: Clock | None = None) -> list[LineResult]:
    """The same for one batch of events that were read already."""
    return take(database, batch_from_events(arrivals), clock=clock)
