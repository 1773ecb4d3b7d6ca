from __future__ import annotations

from collections.abc import Iterator

import pytest

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
