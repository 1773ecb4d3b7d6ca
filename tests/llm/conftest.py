"""One replay server per module, over real HTTP, and clients of both wires with files of their own."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pod_worker.llm.cassettes.cassette import Cassettes
from pod_worker.llm.cassettes.replay import Replay
from pod_worker.llm.cassettes.replay_server import ReplayServer
from pod_worker.llm.client import MeteredClient
from pod_worker.llm.factory import open_client
from tests.llm.requests_and_answers import Stop, cassette, config_for, question


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplayServer]:
    """Answers `question(0)` to `question(39)`, and free text to node.analyse."""
    cassettes = Cassettes(tmp_path_factory.mktemp("cassettes"))
    for number in range(40):
        cassettes.add(cassette(question(number)))
    cassettes.add(cassette(question(0, operation="node.analyse"), "It works."))
    with ReplayServer(Replay(cassettes)) as running:
        yield running


@pytest.fixture
def replay(server: ReplayServer) -> Iterator[Replay]:
    """The module's server without faults, with counts at zero."""
    server.replay.counts.clear()
    server.replay.faults.replace([])
    yield server.replay
    server.replay.faults.replace([])
    server.replay.latency_seconds = 0.0


@pytest.fixture
def make_client(server: ReplayServer, replay: Replay, tmp_path: Path) -> Iterator[Callable[..., MeteredClient]]:
    """A client of a wire; clients of one test share the folder, as the attempts of one run do."""
    opened: list[MeteredClient] = []

    def make(
        wire: str = "openai", stop: Stop | None = None, folder: Path | None = None, **changes: object
    ) -> MeteredClient:
        config = replace(config_for(wire, server), **changes)
        client = open_client(config, folder or tmp_path / "llm", stop or Stop(), rng=random.Random(0))
        opened.append(client)
        return client

    yield make
    for client in opened:
        client.close()
