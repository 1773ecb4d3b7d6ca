"""One wait for many writes: durable when it ends, and void when the primary changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo.errors import PyMongoError

from pod_worker.local.mongod import Mongod
from pod_worker.store.commit import OneWait
from pod_worker.store.mongo import connect
from tests.store.commands import Commands, watched


def test_the_last_write_waits_for_all(mongodb_url: str) -> None:
    seen = Commands()
    with watched(mongodb_url, seen) as database:
        wait = OneWait(database)
        with wait.group() as group:
            group.database["x"].insert_one({"_id": 1})
        concerns = [each["writeConcern"]["w"] for each in seen.seen]
        assert concerns == [1, "majority"]
        assert database["x"].find_one({"_id": 1}) is not None
        assert database["runs"].count_documents({}) == 0, "the write that waits changes nothing"
        seen.clear()
        with wait.group() as group:
            group.database["x"].insert_one({"_id": 2})
            database["x"].insert_one({"_id": 3})
            group.has_waited = True
        assert len(seen.seen) == 2, "nothing more to wait for"


@pytest.fixture
def replicas(tmp_path: Path) -> Iterator[Mongod]:
    server = Mongod(tmp_path, members=3, cache_gb=0.25)
    server.start()
    yield server
    server.kill()


@pytest.mark.slow
def test_a_new_primary_voids_the_group(replicas: Mongod) -> None:
    database: Any = connect(replicas.url, timeout_seconds=20)
    wait = OneWait(database)
    with wait.group():
        wait.quick["x"].insert_one({"_id": "kept"})

    def group_with_an_election() -> None:
        with wait.group():
            wait.quick["x"].insert_one({"_id": "unsure"})
            try:
                database.client.admin.command("replSetStepDown", 30, secondaryCatchUpPeriodSecs=10)
            except PyMongoError:
                pass  # the primary hangs up when it steps down

    with pytest.raises(PyMongoError):
        group_with_an_election()
    with wait.group():
        wait.quick["x"].insert_one({"_id": "after"})
    assert database["x"].count_documents({"_id": {"$in": ["kept", "after"]}}) == 2
    database.client.close()
