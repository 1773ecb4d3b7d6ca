"""A published key holds one content; what never became a registration is found by its age."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pod_worker.core.lease import Fence
from pod_worker.core.stage import Artifact
from pod_worker.store import artifact_keys, artifact_registry
from pod_worker.store.artifact_keys import UnfinishedKey

KEY, A, B = "runs/r/1/$a.txt", "aa" * 32, "bb" * 32
SOON = datetime.now(UTC) + timedelta(days=1)


@pytest.fixture
def keys(db: Any) -> Any:
    return db


def test_a_key_is_reserved_for_one_content(keys: Any) -> None:
    assert artifact_keys.reserve(keys, KEY, "r", A)
    assert artifact_keys.reserve(keys, KEY, "r", A)
    assert not artifact_keys.reserve(keys, KEY, "r", B)
    assert artifact_keys.reserve(keys, "runs/r/1/b", "r", B)


def test_of_contents_that_race_for_a_key_one_gets_it(keys: Any) -> None:
    with ThreadPoolExecutor(8) as pool:
        for number in range(20):
            wanted = [f"{each:02x}" * 32 for each in range(8)]
            results = pool.map(lambda sha, n=number: artifact_keys.reserve(keys, f"k{n}", "r", sha), wanted)
            assert sum(results) == 1


def test_a_registered_key_is_finished(keys: Any) -> None:
    keys["runs"].insert_one({"_id": "r", "attempt": 1, "leaseToken": "t"})
    artifact_keys.reserve(keys, KEY, "r", A)
    artifact_keys.reserve(keys, "runs/r/1/b", "r", B)
    artifact_registry.register(keys, f"r:data:{A}", Fence("r", 1, "t"), Artifact(KEY, 1, A, "data", "text/plain"))
    assert [*artifact_keys.unfinished(keys, SOON)] == [UnfinishedKey("runs/r/1/b", None)]
    assert artifact_keys.reserve(keys, KEY, "r", A), "the same bytes of another kind may use it"
    artifact_keys.forget_registered(keys, "r")
    assert [row["_id"] for row in keys["artifact_keys"].find()] == ["runs/r/1/b"]


def test_a_key_that_a_sweep_deletes_is_not_given_out(keys: Any) -> None:
    artifact_keys.reserve(keys, KEY, "r", A)
    assert [*artifact_keys.unfinished(keys, SOON)] == [UnfinishedKey(KEY, None)]
    assert not artifact_keys.reserve(keys, KEY, "r", A)
    assert [*artifact_keys.unfinished(keys, SOON)] == [UnfinishedKey(KEY, None)], "an interrupted sweep goes on"
    artifact_keys.forget(keys, KEY)
    assert artifact_keys.reserve(keys, KEY, "r", B)


def test_a_reservation_that_is_used_again_is_fresh(keys: Any) -> None:
    artifact_keys.reserve(keys, KEY, "r", A)
    keys["artifact_keys"].update_one({}, {"$set": {"unfinishedSince": datetime(2020, 1, 1, tzinfo=UTC)}})
    artifact_keys.reserve(keys, KEY, "r", A)
    assert [*artifact_keys.unfinished(keys, datetime.now(UTC) - timedelta(hours=1))] == []


def test_its_query_has_an_index(keys: Any) -> None:
    command = {"find": "artifact_keys", "filter": {"unfinishedSince": {"$lt": SOON}}}
    plan = str(keys.command("explain", command, verbosity="queryPlanner")["queryPlanner"]["winningPlan"])
    assert "'indexName': 'unfinished'" in plan
