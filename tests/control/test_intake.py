"""Requests that wait together are stored together, and each gets its own answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from pymongo.errors import AutoReconnect

from pod_worker.control import intake as module
from pod_worker.control.batch import Batch, read_batch
from pod_worker.control.intake import Intake
from pod_worker.control.problem import Problem
from tests.control.lines import event, ndjson


class HeldIngest:
    """An ingest that waits for a word before it stores, and remembers what came together."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.entered = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self.error: Exception | None = None

    def take_all(self, batches: Sequence[Batch]) -> None:
        self.groups.append([each.event.id for batch in batches for each in batch.arrivals])
        self.entered.release()
        assert self.go.acquire(timeout=20)
        if self.error:
            raise self.error


def reading(name: str) -> Batch:
    return read_batch([(1, ndjson(event(name)))])


async def waiting(intake: Intake, count: int) -> None:
    while intake._waiting.qsize() < count:
        await asyncio.sleep(0)


def test_what_waits_goes_together() -> None:
    held = HeldIngest()

    async def scene() -> None:
        intake = Intake(held, threads=1)  # type: ignore[arg-type]
        first = asyncio.create_task(intake.take(reading("a")))
        await asyncio.to_thread(held.entered.acquire)
        rest = [asyncio.create_task(intake.take(reading(name))) for name in "bcd"]
        await waiting(intake, 3)
        for _ in range(2):
            held.go.release()
        await asyncio.gather(first, *rest)
        await asyncio.to_thread(intake.close)

    asyncio.run(scene())
    assert held.groups == [["a"], ["b", "c", "d"]]


def test_the_databases_trouble_is_everybodys_answer() -> None:
    held = HeldIngest()
    held.error = AutoReconnect("gone")

    async def scene() -> list[Any]:
        intake = Intake(held, threads=1)  # type: ignore[arg-type]
        held.go.release()
        found = await asyncio.gather(intake.take(reading("a")), return_exceptions=True)
        held.error = None
        held.go.release()
        found += [await intake.take(reading("b"))]
        await asyncio.to_thread(intake.close)
        return list(found)

    found = asyncio.run(scene())
    assert isinstance(found[0], AutoReconnect)
    assert held.groups[1] == ["b"], "and the thread lives on"


def test_too_many_waiting_requests_are_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING_REQUESTS", 1)
    held = HeldIngest()

    async def scene() -> int:
        intake = Intake(held, threads=1)  # type: ignore[arg-type]
        first = asyncio.create_task(intake.take(reading("a")))
        await asyncio.to_thread(held.entered.acquire)
        second = asyncio.create_task(intake.take(reading("b")))
        await waiting(intake, 1)
        with pytest.raises(Problem) as refused:
            await intake.take(reading("c"))
        for _ in range(2):
            held.go.release()
        await first
        await second
        await asyncio.to_thread(intake.close)
        return refused.value.status

    assert asyncio.run(scene()) == 503


def test_close_finishes_what_waits() -> None:
    held = HeldIngest()

    async def scene() -> None:
        intake = Intake(held, threads=2)  # type: ignore[arg-type]
        task = asyncio.create_task(intake.take(reading("a")))
        await asyncio.to_thread(held.entered.acquire)
        closing = asyncio.create_task(asyncio.to_thread(intake.close))
        held.go.release()
        await closing
        await task

    asyncio.run(scene())
    assert held.groups == [["a"]]
