"""Events straight into an ingest, without HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from pod_worker.control.events.incoming import Arrival
from pod_worker.control.ingest.batch import Batch, Fate, batch_of
from pod_worker.control.ingest.service import Ingest
from pod_worker.control.metrics import Telemetry
from pod_worker.core.clock import Clock, SystemClock
from pod_worker.store.queue.stats import Depth


def take(database: Any, *batches: Batch, clock: Clock | None = None) -> list[Fate]:
    """One batch after the other into an ingest that is closed afterwards; the fate of all their lines."""
    return asyncio.run(_taken(database, batches, clock or SystemClock()))


async def _taken(database: Any, batches: Sequence[Batch], clock: Clock) -> list[Fate]:
    ingest = Ingest(database, clock, Telemetry(Depth))
    try:
        return [fate for batch in batches for fate in await ingest.take(batch)]
    finally:
        await ingest.close()


def tell(database: Any, *arrivals: Arrival, clock: Clock | None = None) -> list[Fate]:
    """The same for one batch of events that were read already."""
    return take(database, batch_of(arrivals), clock=clock)
