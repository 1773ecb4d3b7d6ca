from __future__ import annotations

from collections.abc import Iterator

import pytest

from pod_worker.core.clock import ManualClock
from pod_worker.fake_runpod.server import FakeServer, Options
from pod_worker.fake_runpod.server import running as running_fake
from tests.pods.cloud import Cloud
from tests.pods.scripted_server import ScriptedServer, scripted_server
from tests.pods.sshd import Sshd, make_folder, running


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        yield server


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running(make_folder(tmp_path_factory.mktemp("sshd"))) as sshd:
        yield sshd


@pytest.fixture(scope="session")
def fake_server() -> Iterator[FakeServer]:
    """One fake per session, on a clock that only moves when a test steps it."""
    with running_fake(Options(speed=0, seed=7)) as fake:
        yield fake


@pytest.fixture
def cloud(fake_server: FakeServer) -> Cloud:
    cloud = Cloud(fake_server.url, fake_server.api_key, ManualClock())
    cloud.reset()
    cloud.settings(billing_lag_seconds=0, ssh_host=None)
    return cloud
