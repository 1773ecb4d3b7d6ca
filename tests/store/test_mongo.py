"""The client as the product opens it: each one with its own settings."""

from __future__ import annotations

import asyncio
import gc
from contextlib import closing

import pytest
from pymongo.database import Database

from pod_worker.store.indexes import all_indexes
from pod_worker.store.mongo import (
    AsyncMongo,
    IndexConflictError,
    Mongo,
    async_database,
    connect,
    ensure_indexes,
)


def settings_of(database: Mongo | AsyncMongo) -> tuple[str, str | None, float]:
    pool = database.client.options.pool_options
    return str(pool._credentials.username), pool.appname, pool.max_pool_size


def test_two_clients_of_one_server_keep_their_own_settings(mongodb_url: str) -> None:
    """pymongo compares clients by address, so these two are equal."""
    ann = connect(mongodb_url.replace("//", "//ann:one@"), app_name="first", pool_size=3)
    bob = connect(mongodb_url.replace("//", "//bob:two@"), app_name="second", pool_size=5)

    async def opened() -> list[tuple[str, str | None, float]]:
        databases = [async_database(ann), async_database(bob)]
        for database in databases:
            await database.client.close()
        return [settings_of(database) for database in databases]

    with closing(ann.client), closing(bob.client):
        assert ann.client == bob.client, "this test has lost its subject"
        assert asyncio.run(opened()) == [("ann", "first", 3), ("bob", "second", 5)]


def test_a_client_keeps_its_settings_when_an_equal_one_is_collected(mongodb_url: str) -> None:
    first, second = connect(mongodb_url), connect(mongodb_url)
    first.client.close()
    del first
    gc.collect()

    async def ping() -> float:
        database = async_database(second)
        try:
            return float((await database.command("ping"))["ok"])
        finally:
            await database.client.close()

    with closing(second.client):
        assert asyncio.run(ping()) == 1


def test_a_database_that_connect_did_not_open_is_refused(db: Database[dict[str, object]]) -> None:
    with pytest.raises(TypeError, match=r"not opened by connect\(\)"):
        async_database(db)


def test_documents_that_prevent_an_index_are_named_with_the_fix(bare_db: Database[dict[str, object]]) -> None:
    """Documents of another program that share a unique key: every program of ours refuses to start."""
    bare_db["runs"].insert_many([{"_id": name, "uniqueKey": "same"} for name in ("a", "b")])
    with pytest.raises(IndexConflictError, match=r"collection runs.*unique_key.*\"same\".*then start again"):
        ensure_indexes(bare_db, all_indexes())
    bare_db["runs"].delete_one({"_id": "b"})
    bare_db["workers"].create_index("podId", name="foreign")
    with pytest.raises(IndexConflictError, match=r"collection workers.*foreign"):
        ensure_indexes(bare_db, all_indexes())
    bare_db["workers"].drop_index("foreign")
    ensure_indexes(bare_db, all_indexes())
