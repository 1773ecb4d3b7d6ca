"""One fake per session on a clock that only moves when a test steps it; emptied before every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pod_worker.fake_runpod.cloud.settings import SimulationSettings
from pod_worker.fake_runpod.server import FakeServer, Options, running
from tests.fake_runpod.api_client import Api

SETTINGS = SimulationSettings(billing_lag_seconds=0)


@pytest.fixture(scope="session")
def server() -> Iterator[FakeServer]:
    with running(Options(speed=0, settings=SETTINGS, seed=1)) as fake:
        yield fake


@pytest.fixture
def fake(server: FakeServer) -> FakeServer:
    with Api(server) as client:
        client.post("/_fake/reset").raise_for_status()
        client.patch("/_fake/settings", json={"billing_lag_seconds": 0, "ssh_host": None}).raise_for_status()
    return server


@pytest.fixture
def api(fake: FakeServer) -> Iterator[Api]:
    with Api(fake) as client:
        yield client
