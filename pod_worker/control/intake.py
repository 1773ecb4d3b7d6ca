"""Requests that arrive together go to the database together.

While one group is being stored the next one gathers, so the cost of a round trip is shared by however many pods
talk at the moment, and an idle service adds no delay. What a line means and what HTTP says is known elsewhere.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from pod_worker.control.batch import Batch, Line
from pod_worker.control.ingest import Ingest
from pod_worker.control.problem import RETRY_SECONDS, Problem

THREADS = 2  # one talks to the database while the other reads
GROUP_LINES = 2000
WAITING_REQUESTS = 256


@dataclass(slots=True)
class _Parcel:
    read: Callable[[], Batch]
    future: asyncio.Future[list[Line]]
    loop: asyncio.AbstractEventLoop
    batch: Batch | None = None

    def answer(self, lines: list[Line] | BaseException) -> None:
        self.loop.call_soon_threadsafe(self._answer, lines)

    def _answer(self, lines: list[Line] | BaseException) -> None:
        if self.future.done():  # the client went away
            return
        if isinstance(lines, BaseException):
            self.future.set_exception(lines)
        else:
            self.future.set_result(lines)


class Intake:
    def __init__(self, ingest: Ingest, threads: int = THREADS) -> None:
        self._ingest = ingest
        self._waiting: SimpleQueue[_Parcel | None] = SimpleQueue()
        self._wanted_threads = threads
        self._threads: list[threading.Thread] = []

    async def take(self, read: Callable[[], Batch]) -> list[Line]:
        """`read` runs in a thread. Raises what it raises, PyMongoError, or Problem 503 when too many wait."""
        if self._waiting.qsize() >= WAITING_REQUESTS:
            wait = {"Retry-After": str(RETRY_SECONDS)}
            raise Problem(503, "busy", "too many batches wait to be stored: send it again", headers=wait)
        self._start()
        loop = asyncio.get_running_loop()
        parcel = _Parcel(read, loop.create_future(), loop)
        self._waiting.put(parcel)
        return await parcel.future

    def close(self) -> None:
        """End the threads once what waits is done."""
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _start(self) -> None:
        while len(self._threads) < self._wanted_threads:
            thread = threading.Thread(target=self._work, name="ingest", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _work(self) -> None:
        while (parcel := self._waiting.get()) is not None:
            group = self._gathered(parcel)
            if group:
                self._take(group)

    def _gathered(self, parcel: _Parcel | None) -> list[_Parcel]:
        """That parcel and all that wait behind it, read; those that cannot be read are answered."""
        group: list[_Parcel] = []
        lines = 0
        while parcel is not None:
            try:
                parcel.batch = parcel.read()
                lines += len(parcel.batch.pending)
                group.append(parcel)
            except Exception as error:  # whatever is wrong with one request is that request's answer
                parcel.answer(error)
            if lines >= GROUP_LINES:
                break
            try:
                parcel = self._waiting.get_nowait()
            except Empty:
                break
        else:
            self._waiting.put(None)  # the end was meant for a thread: leave it for the next look
        return group

    def _take(self, group: list[_Parcel]) -> None:
        try:
            fates = self._ingest.take_all([parcel.batch for parcel in group if parcel.batch is not None])
        except Exception as error:
            for parcel in group:
                parcel.answer(error)
            return
        for parcel, lines in zip(group, fates, strict=True):
            parcel.answer(lines)
