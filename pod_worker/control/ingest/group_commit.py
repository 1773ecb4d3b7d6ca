"""Stores the batches of simultaneous requests together.

While some groups are being stored the next one gathers. Concurrent pods share the cost of a round trip, and an
idle service adds no delay.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from pod_worker.control.ingest.batch import IngestBatch
from pod_worker.control.ingest.service import Ingest
from pod_worker.control.web.problem import RETRY_SECONDS, ProblemError

CONCURRENT_GROUPS = 2  # one is computed while the other waits for the database
# Enough to share a round trip, and few enough that one group does not hold all waiting requests.
GROUP_LINES = 200
WAITING_REQUESTS = 256


@dataclass(slots=True)
class _QueuedBatch:
    batch: IngestBatch
    future: asyncio.Future[None]


class GroupCommit:
    """For one event loop."""

    def __init__(self, ingest: Ingest, concurrent_groups: int = CONCURRENT_GROUPS) -> None:
        self._ingest = ingest
        self._waiting: deque[_QueuedBatch] = deque()
        self._concurrent_groups = concurrent_groups
        self._tasks: set[asyncio.Task[None]] = set()

    async def submit(self, batch: IngestBatch) -> None:
        """Return once each line of the batch has its result.

        Raises PyMongoError, or ProblemError 503 when too many batches wait.
        """
        if len(self._waiting) >= WAITING_REQUESTS:
            wait = {"Retry-After": str(RETRY_SECONDS)}
            raise ProblemError(503, "busy", "too many batches wait to be stored: send it again", headers=wait)
        queued = _QueuedBatch(batch, asyncio.get_running_loop().create_future())
        self._waiting.append(queued)
        if len(self._tasks) < self._concurrent_groups:
            # A task of its own: it stores for others too, and must outlive a client that disconnects.
            task = asyncio.create_task(self._work())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        await queued.future

    async def close(self) -> None:
        """Return once all waiting batches are stored."""
        while self._tasks:
            await asyncio.gather(*self._tasks)

    async def _work(self) -> None:
        while self._waiting:
            group = self._next_group()
            error = await self._store_group(group)
            for queued in group:
                if queued.future.done():  # the client disconnected
                    continue
                if error is not None:
                    queued.future.set_exception(error)
                else:
                    queued.future.set_result(None)

    def _next_group(self) -> list[_QueuedBatch]:
        """The batches that waited longest."""
        group: list[_QueuedBatch] = []
        lines = 0
        while self._waiting and lines < GROUP_LINES:
            queued = self._waiting.popleft()
            group.append(queued)
            lines += len(queued.batch.events)
        return group

    async def _store_group(self, group: list[_QueuedBatch]) -> Exception | None:
        try:
            await self._ingest.ingest([queued.batch for queued in group])
        except Exception as error:  # of any kind: every request of the group gets it
            return error
        return None
