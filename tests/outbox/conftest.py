"""A spool and an emitter in a temporary folder, and shippers that are stopped when the test ends."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pod_worker.core.clock import SystemClock
from pod_worker.outbox import RunEmitter, Spool, UlidGenerator
from pod_worker.outbox.shipper import Shipper
from tests.outbox.ingest_server import SOURCE, IngestServer


class Impatient(random.Random):
    """Draws near the short end, so that retries do not make tests slow."""

    def uniform(self, a: float, b: float) -> float:
        return a + 0.02 * (b - a)


@pytest.fixture
def ingest() -> Iterator[IngestServer]:
    server = IngestServer()
    yield server
    server.close()


@pytest.fixture
def clock() -> SystemClock:
    return SystemClock()


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    found = Spool.open(tmp_path / "spools", "w1")
    yield found
    found.close()


@pytest.fixture
def emitter(spool: Spool, clock: SystemClock) -> RunEmitter:
    return RunEmitter(spool, SOURCE, "r1", 1, clock, UlidGenerator(clock))


@pytest.fixture
def ship(ingest: IngestServer, spool: Spool) -> Iterator[Callable[..., Shipper]]:
    """Start a shipper of `spool` to `ingest`; what it logs is in `logged`."""
    started: list[Shipper] = []

    def start(*spools: Spool, **options: Any) -> Shipper:
        logged: list[str] = []
        options = {"batch_seconds": 0.02, "log": logged.append, "rng": Impatient(), **options}
        shipper = Shipper(spools or [spool], options.pop("url", ingest.url), "secret-token", **options)
        shipper.logged = logged  # type: ignore[attr-defined]
        shipper.start()
        started.append(shipper)
        return shipper

    yield start
    for shipper in started:
        shipper.stop()
