"""One local stack of real processes for all acceptance tests."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from pod_worker.cli.stack.up import LocalStack
from pod_worker.store.mongo import connect
from tests.acceptance.local_stack import Running


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    local = LocalStack(tmp_path_factory.mktemp("stack"), threading.Event())
    local.start()
    yield local
    local.stack.stop()


@pytest.fixture
def running(stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    database = connect(stack.stack.mongodb_url)
    yield Running(stack, database, tmp_path_factory.mktemp("pods"))
    # Nothing of one test may be claimed by the next one's worker.
    database.runs.update_many(
        {"status": {"$in": ["QUEUED", "SCHEDULED", "RUNNING"]}}, {"$set": {"status": "CANCELED"}}
    )
    database.client.close()
