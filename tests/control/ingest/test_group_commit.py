"""Requests that wait together are stored together, and each gets its own answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from pymongo.errors import AutoReconnect

from pod_worker.control.ingest import group_commit as module
from pod_worker.control.ingest.batch import IngestBatch
from pod_worker.control.ingest.decode import read_batch
from pod_worker.control.ingest.group_commit import GroupCommit
from pod_worker.control.web.problem import ProblemError
from tests.control.lines import event, ndjson


class HeldIngest:
    """An ingest that waits for a word before it stores, and remembers what came together."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.entered = asyncio.Semaphore(0)
        self.go = asyncio.Semaphore(0)
        self.error: Exception | None = None

    async def ingest(self, batches: Sequence[IngestBatch]) -> None:
        self.groups.append([each.event.id for batch in batches for each in batch.events])
        self.entered.release()
        await self.go.acquire()
        if self.error:
            raise self.error


def reading(name: str) -> IngestBatch:
    return read_batch([ndjson(event(name))])


async def waiting(group_commit: GroupCommit, count: int) -> None:
    while len(group_commit._waiting) < count:
        await asyncio.sleep(0)


def test_what_waits_goes_together() -> None:
    held = HeldIngest()

    async def scene() -> None:
        group_commit = GroupCommit(held, concurrent_groups=1)  # type: ignore[arg-type]
        first = asyncio.create_task(group_commit.submit(reading("a")))
        await held.entered.acquire()
        rest = [asyncio.create_task(group_commit.submit(reading(name))) for name in "bcd"]
        await waiting(group_commit, 3)
        for _ in range(2):
            held.go.release()
        await asyncio.gather(first, *rest)
        await group_commit.close()

    asyncio.run(scene())
    assert held.groups == [["a"], ["b", "c", "d"]]


def test_the_databases_trouble_is_everybodys_answer() -> None:
    held = HeldIngest()
    held.error = AutoReconnect("gone")

    async def scene() -> list[Any]:
        group_commit = GroupCommit(held, concurrent_groups=1)  # type: ignore[arg-type]
        held.go.release()
        found = await asyncio.gather(group_commit.submit(reading("a")), return_exceptions=True)
        held.error = None
        held.go.release()
        await group_commit.submit(reading("b"))
        await group_commit.close()
        return list(found)

    found = asyncio.run(scene())
    assert isinstance(found[0], AutoReconnect)
    assert held.groups[1] == ["b"], "and it goes on"


def test_too_many_waiting_requests_are_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING_REQUESTS", 1)
    held = HeldIngest()

    async def scene() -> int:
        group_commit = GroupCommit(held, concurrent_groups=1)  # type: ignore[arg-type]
        first = asyncio.create_task(group_commit.submit(reading("a")))
        await held.entered.acquire()
        second = asyncio.create_task(group_commit.submit(reading("b")))
        await waiting(group_commit, 1)
        with pytest.raises(ProblemError) as refused:
            await group_commit.submit(reading("c"))
        for _ in range(2):
            held.go.release()
        await first
        await second
        await group_commit.close()
        return refused.value.status

    assert asyncio.run(scene()) == 503


def test_close_finishes_what_waits() -> None:
    held = HeldIngest()

    async def scene() -> None:
        group_commit = GroupCommit(held, concurrent_groups=2)  # type: ignore[arg-type]
        task = asyncio.create_task(group_commit.submit(reading("a")))
        await held.entered.acquire()
        closing = asyncio.create_task(group_commit.close())
        held.go.release()
        await closing
        await task

    asyncio.run(scene())
    assert held.groups == [["a"]]
