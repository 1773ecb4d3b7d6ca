"""What prune deletes: runs by their end, with their rows and their own verified objects, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo.database import Database

from pod_worker.core.clock import SystemClock
from pod_worker.store.pruning import Pruned, RunPruner
from pod_worker.store.queue.operations import ActionResult, OperatorActions
from pod_worker.store.queue.run_queue import ClaimingWorker, RunQueue

Db = Database[dict[str, Any]]
NOW = datetime.now(UTC)
OLD, RECENT, BEFORE = NOW - timedelta(days=90), NOW - timedelta(minutes=5), NOW - timedelta(days=30)
ENDED = ["COMPLETED", "FAILED", "CANCELED"]


@pytest.fixture
def pruner(db: Db) -> RunPruner:
    return RunPruner(db)


def insert_run(db: Db, run_id: str, **fields: Any) -> None:
    ended = {"status": "COMPLETED", "createdAt": OLD, "completedAt": OLD, "attempt": 1}
    document = {"_id": run_id, "pipeline": "synthetic", "queue": "synthetic"} | ended | fields
    db["runs"].insert_one({name: value for name, value in document.items() if value is not None})


def prune(pruner: RunPruner, delete_object: Callable[[str], None] | None = None) -> Pruned:
    return pruner.delete(pruner.find(ENDED, BEFORE), ENDED, BEFORE, delete_object)


@pytest.mark.parametrize(
    ("fields", "is_deleted"),
    [
        ({}, True),
        ({"completedAt": RECENT}, False),
        ({"status": "FAILED", "completedAt": None, "failedAt": RECENT}, False),
        ({"status": "FAILED", "completedAt": None, "failedAt": OLD}, True),
        ({"status": "CANCELED", "completedAt": None, "canceledAt": OLD}, True),
        ({"completedAt": OLD, "failedAt": RECENT}, False),
        ({"completedAt": None}, True),
        ({"createdAt": None}, True),
        ({"createdAt": None, "completedAt": None}, False),
        ({"completedAt": "long ago", "createdAt": RECENT}, False),
        ({"status": "RUNNING"}, False),
        ({"status": "QUEUED"}, False),
        ({"leaseToken": "t"}, False),
    ],
)
def test_a_run_is_deleted_by_the_time_of_its_end(
    db: Db, pruner: RunPruner, fields: dict[str, Any], is_deleted: bool
) -> None:
    insert_run(db, "a", **fields)
    assert prune(pruner).runs == int(is_deleted)
    assert (db["runs"].find_one({"_id": "a"}) is None) is is_deleted


def test_a_run_that_was_reset_after_the_list_stays(db: Db, pruner: RunPruner) -> None:
    insert_run(db, "a")
    db["stages"].insert_one({"_id": "a:s", "runId": "a"})
    found = pruner.find(ENDED, BEFORE)
    OperatorActions(db).reset("a")
    assert pruner.delete(found, ENDED, BEFORE, None) == Pruned()
    assert db["stages"].count_documents({}) == 1


def test_a_run_that_a_prune_condemned_can_be_neither_reset_nor_claimed(db: Db, pruner: RunPruner) -> None:
    insert_run(db, "a")
    db["artifacts"].insert_one({"_id": "a:x", "runId": "a", "key": "runs/a/1/x", "verifiedAt": OLD})

    def fail(key: str) -> None:
        assert OperatorActions(db).reset("a").verdict is ActionResult.LIVE
        assert RunQueue(db, SystemClock()).claim(ClaimingWorker("w", "p", ("synthetic",), ("synthetic",))) is None
        raise OSError(f"the object store is down at {key}")

    with pytest.raises(OSError, match="runs/a/1/x"):
        prune(pruner, fail)
    # The next prune finds it again, whatever it is asked for.
    assert pruner.delete(pruner.find([], OLD), [], OLD, lambda key: None).runs == 1
    assert db["runs"].count_documents({}) == db["artifacts"].count_documents({}) == 0


def test_only_verified_objects_of_the_run_itself_are_deleted(db: Db, pruner: RunPruner) -> None:
    """`ai.artifact.registered` may name any key of the bucket."""
    insert_run(db, "a")
    rows: list[dict[str, Any]] = [
        {"key": "runs/a/1/own.txt", "verifiedAt": OLD},
        {"key": "runs/a/1/unverified.txt"},
        {"key": "runs/a/1/no-date.txt", "verifiedAt": "yes"},
        {"key": "runs/alice/1/theirs.txt", "verifiedAt": OLD},
        {"key": "others/important.txt", "verifiedAt": OLD},
        {"key": "runs/a", "verifiedAt": OLD},
        {"key": 7, "verifiedAt": OLD},
        {"verifiedAt": OLD},
    ]
    db["artifacts"].insert_many([{"_id": f"a:{index}", "runId": "a"} | row for index, row in enumerate(rows)])
    deleted: list[str] = []
    pruned = prune(pruner, deleted.append)
    assert deleted in (["runs/a/1/own.txt"], ["runs/a/1/own.txt", "runs/a"])
    assert pruned.runs == 1
    assert db["artifacts"].count_documents({}) == 0


def test_rows_without_a_run_are_deleted_when_nothing_happens_any_more(db: Db, pruner: RunPruner) -> None:
    insert_run(db, "kept", completedAt=RECENT)
    for run_id in ("kept", "gone", "busy"):
        db["stages"].insert_one({"_id": f"{run_id}:s", "runId": run_id})
        db["metrics"].insert_one({"_id": f"{run_id}:m", "runId": run_id})
    db["events"].insert_one({"_id": "e", "runId": "busy", "position": int(NOW.timestamp() * 1_000_000)})
    assert pruner.orphans(BEFORE) == ["gone"]
    assert pruner.delete_orphans(["gone", "kept"], None).documents == 2
    assert {row["runId"] for row in db["stages"].find()} == {"kept", "busy"}
