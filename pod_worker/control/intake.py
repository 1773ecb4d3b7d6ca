"""Requests that arrive together go to the database together.

While one group is being stored the next one gathers, so the cost of a round trip is shared by however many pods
talk at the moment, and an idle service adds no delay. What a line means and what HTTP says is known elsewhere.
"""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from pod_worker.control.batch import Batch
from pod_worker.control.ingest import Ingest
from pod_worker.control.problem import RETRY_SECONDS, Problem

THREADS = 3  # one computes while the others wait for the database
# Enough to share a round trip, and not so much that all that is on its way waits for the database together.
GROUP_LINES = 200
WAITING_REQUESTS = 256


@dataclass(slots=True)
class _Parcel:
    batch: Batch
    future: asyncio.Future[None]


class Intake:
    def __init__(self, ingest: Ingest, threads: int = THREADS) -> None:
        self._ingest = ingest
        self._waiting: SimpleQueue[_Parcel | None] = SimpleQueue()
        self._wanted_threads = threads
        self._threads: list[threading.Thread] = []

    async def take(self, batch: Batch) -> None:
        """Have its fate decided; from the event loop. Raises PyMongoError, or Problem 503 when too many wait."""
        if self._waiting.qsize() >= WAITING_REQUESTS:
            wait = {"Retry-After": str(RETRY_SECONDS)}
            raise Problem(503, "busy", "too many batches wait to be stored: send it again", headers=wait)
        loop = asyncio.get_running_loop()
        self._start(loop)
        parcel = _Parcel(batch, loop.create_future())
        self._waiting.put(parcel)
        await parcel.future

    def close(self) -> None:
        """End the threads once what waits is done."""
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        while len(self._threads) < self._wanted_threads:
            thread = threading.Thread(target=self._work, args=(loop,), name="ingest", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        while (parcel := self._waiting.get()) is not None:
            group = self._gathered(parcel)
            loop.call_soon_threadsafe(_answer, group, self._trouble(group))

    def _gathered(self, first: _Parcel) -> list[_Parcel]:
        """That parcel and those that wait behind it."""
        group, lines = [first], len(first.batch.arrivals)
        while lines < GROUP_LINES:
            try:
                parcel = self._waiting.get_nowait()
            except Empty:
                break
            if parcel is None:  # the end was meant for a thread: leave it for the next look
                self._waiting.put(None)
                break
            group.append(parcel)
            lines += len(parcel.batch.arrivals)
        return group

    def _trouble(self, group: list[_Parcel]) -> Exception | None:
        try:
            self._ingest.take_all([parcel.batch for parcel in group])
        except Exception as error:  # whatever it is, it is the answer to all of them
            return error
        return None


def _answer(group: list[_Parcel], trouble: Exception | None) -> None:
    for parcel in group:
        if parcel.future.done():  # the client went away
            continue
        if trouble is not None:
            parcel.future.set_exception(trouble)
        else:
            parcel.future.set_result(None)
