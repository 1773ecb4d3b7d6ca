"""The control plane over a real database: in this process for what it answers, in its own for how it stops."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pymongo.database import Database

from pod_worker.control.app import build_app
from pod_worker.core.clock import ManualClock
from pod_worker.store.mongo import connect

TOKEN = "control-token"

Db = Database[dict[str, Any]]
Plane = Callable[..., TestClient]


@pytest.fixture
def store(mongodb_url: str) -> Iterator[Db]:
    """The database as the product opens it, with its indexes."""
    database = connect(mongodb_url)
    yield database
    database.client.close()


@pytest.fixture
def plane(store: Db) -> Iterator[Plane]:
    """`plane(**settings)` -> a client of an app over `store`, on loopback unless `client=` says otherwise."""
    opened: list[TestClient] = []

    def make(
        client: str = "127.0.0.1",
        base_url: str = "http://127.0.0.1:8000",
        database: Any = None,
        object_store: Any = None,
        **settings: Any,
    ) -> TestClient:
        chosen = {"token": TOKEN, "open_on_loopback": True} | settings
        app = build_app(database if database is not None else store, object_store, **chosen)
        made = TestClient(app, base_url=base_url, client=(client, 50_000), raise_server_exceptions=False)
        made.__enter__()
        opened.append(made)
        return made

    yield make
    for each in opened:
        each.__exit__(None, None, None)


@pytest.fixture
def http(plane: Plane) -> TestClient:
    return plane()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()
