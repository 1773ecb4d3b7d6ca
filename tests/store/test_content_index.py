"""Every query of the content index has an index: a store may hold millions of files."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pod_worker.store import content_index as content
from pod_worker.store.mongo import ensure_indexes
from pod_worker.store.queue import run_queue
from tests.store.commands import QUERIES, Commands, watched
from tests.store.plans import plans

T0 = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def seen() -> Commands:
    return Commands()


@pytest.fixture
def database(mongodb_url: str, seen: Commands) -> Iterator[Any]:
    """Full enough that reading a collection whole would be the worse plan."""
    with watched(mongodb_url, seen) as made:
        ensure_indexes(made, content.INDEXES | {"runs": content.INDEXES["runs"] + run_queue.INDEXES["runs"]})
        used = [{"lastUsedAt": T0 + timedelta(days=n)} for n in range(200)]
        made["content"].insert_many(
            {"_id": f"f{n}", "pack": f"p{n % 200}", "offset": n, "bytes": 1} for n in range(400)
        )
        made["content_packs"].insert_many({"_id": f"p{n}", "bytes": 2} | used[n] for n in range(200))
        made["content_manifests"].insert_many(
            {"_id": f"m{n}", "packs": [f"p{n}"], "files": 2, "bytes": 2} | used[n] for n in range(200)
        )
        made["data_sets"].insert_many(
            {"_id": f"data/{n}", "name": "d", "pack": f"p{n}", "bytes": 2, "createdAt": T0} | used[n]
            for n in range(200)
        )
        made["runs"].insert_many(
            {"_id": f"r{n}", "status": ("QUEUED", "COMPLETED")[n % 40 > 0]} for n in range(200)
        )
        seen.clear()
        yield made


def test_no_query_reads_a_collection_whole(database: Any, seen: Commands) -> None:
    content.locate(database, ["f1", "f2"])
    content.record_pack(database, "p1", 2, [content.PlacedFile("new", "p1", 0, 2)])
    content.pack_sizes(database, ["p1"])
    content.record_manifest(database, "m1", 2, 2, ["p1"])
    content.use_manifest(database, "m2")
    content.manifest_of_run(database, "r1")
    content.record_data_set(database, "data/1", "d", "p1", 2)
    content.record_data_folder(database, "data/new", "d", "m1")
    content.data_set(database, "data/1")
    content.data_sets(database)
    early = T0 + timedelta(days=5)
    assert content.forget_data_sets(database, early)
    for manifest in content.doom_manifests(database, early):
        content.forget_manifest(database, manifest)
    for pack in content.doom_packs(database, early):
        content.forget_pack(database, pack)
    commands = [each for each in seen.seen if next(iter(each)) in QUERIES]
    assert len(commands) > 30
    assert [each for each in commands if "COLLSCAN" in plans(database, each)] == []
