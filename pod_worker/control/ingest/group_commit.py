"""Requests that arrive together go to the database together.

While some groups are being stored the next one gathers, so the cost of a round trip is shared by however many pods
talk at the moment, and an idle service adds no delay. What a line means and what HTTP says is known elsewhere.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from pod_worker.control.ingest.batch import IngestBatch
from pod_worker.control.ingest.service import Ingest
from pod_worker.control.web.problem import RETRY_SECONDS, ProblemError

CONCURRENT_GROUPS = 2  # one is computed while the other waits for the database
# Enough to share a round trip, and not so much that all that is on its way waits for the database together.
GROUP_LINES = 200
WAITING_REQUESTS = 256


@dataclass(slots=True)
class _QueuedBatch:
    batch: IngestBatch
    future: asyncio.Future[None]


class GroupCommit:
    """For one event loop."""

    def __init__(self, ingest: Ingest, at_once: int = CONCURRENT_GROUPS) -> None:
        self._ingest = ingest
        self._waiting: deque[_QueuedBatch] = deque()
        self._at_once = at_once
        self._busy: set[asyncio.Task[None]] = set()

    async def submit(self, batch: IngestBatch) -> None:
        """Have its fate decided. Raises PyMongoError, or ProblemError 503 when too many wait."""
        if len(self._waiting) >= WAITING_REQUESTS:
            wait = {"Retry-After": str(RETRY_SECONDS)}
            raise ProblemError(503, "busy", "too many batches wait to be stored: send it again", headers=wait)
        parcel = _QueuedBatch(batch, asyncio.get_running_loop().create_future())
        self._waiting.append(parcel)
        if len(self._busy) < self._at_once:
            # A task of its own: it stores for others too, and must outlive a client that goes away.
            task = asyncio.create_task(self._work())
            self._busy.add(task)
            task.add_done_callback(self._busy.discard)
        await parcel.future

    async def close(self) -> None:
        """Return once what waits is done."""
        while self._busy:
            await asyncio.gather(*self._busy)

    async def _work(self) -> None:
        while self._waiting:
            group = self._next_group()
            trouble = await self._store_group(group)
            for parcel in group:
                if parcel.future.done():  # the client went away
                    continue
                if trouble is not None:
                    parcel.future.set_exception(trouble)
                else:
                    parcel.future.set_result(None)

    def _next_group(self) -> list[_QueuedBatch]:
        """Those that waited longest."""
        group: list[_QueuedBatch] = []
        lines = 0
        while self._waiting and lines < GROUP_LINES:
            parcel = self._waiting.popleft()
            group.append(parcel)
            lines += len(parcel.batch.arrivals)
        return group

    async def _store_group(self, group: list[_QueuedBatch]) -> Exception | None:
        try:
            await self._ingest.ingest([parcel.batch for parcel in group])
        except Exception as error:  # whatever it is, it is the answer to all of them
            return error
        return None
