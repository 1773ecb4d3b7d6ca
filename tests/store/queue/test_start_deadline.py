"""Runs that no worker claims within their max_queue_time."""

from __future__ import annotations

import random
from typing import Any

import pytest
from pymongo.database import Database

from pod_worker.core.clock import SystemClock
from pod_worker.core.outcome import Released, Succeeded
from pod_worker.core.run import InvalidRunError
from pod_worker.store.queue.operations import ActionResult, OperatorActions
from pod_worker.store.queue.rescue import Rescue
from pod_worker.store.queue.run_queue import ClaimingWorker, RunQueue, RunRequest
from pod_worker.store.queue.start_deadline import StartDeadline

Db = Database[dict[str, Any]]
WORKER = ClaimingWorker("w1", "pod", ("synthetic",), ("synthetic",))


@pytest.fixture
def queue(db: Db) -> RunQueue:
    return RunQueue(db, SystemClock(), rng=random.Random(1))


def enqueue(queue: RunQueue, run_id: str = "a", seconds: float | None = 60, after: tuple[str, ...] = ()) -> None:
    queue.enqueue(RunRequest(run_id, "synthetic", {}, max_queue_seconds=seconds, after=after))


def let_time_pass(db: Db) -> None:
    db.runs.update_many({"startBy": {"$exists": True}}, [{"$set": {"startBy": {"$subtract": ["$$NOW", 1]}}}])


def found(db: Db) -> dict[str, Any]:
    return db.runs.find_one({"_id": "a"}) or {}


def test_a_run_that_waited_too_long_fails_with_the_cause(queue: RunQueue, db: Db) -> None:
    enqueue(queue)
    enqueue(queue, "patient", None)
    assert StartDeadline(db).sweep() == 0
    let_time_pass(db)
    Rescue(db).sweep()
    assert (found(db)["status"], found(db)["errorCode"]) == ("FAILED", "STAGE_TIMEOUT")
    assert "max_queue_time" in found(db)["errorMessage"]
    assert queue.claim(WORKER, "patient") is not None


def test_a_run_that_was_claimed_in_time_is_never_ended_for_it(queue: RunQueue, db: Db) -> None:
    enqueue(queue)
    claim = queue.claim(WORKER)
    assert claim is not None
    queue.settle(claim.lease.fence, Released("the pod goes away"))
    let_time_pass(db)
    assert StartDeadline(db).sweep() == 0
    assert found(db)["status"] == "QUEUED"


def test_a_reset_gives_it_the_time_again(queue: RunQueue, db: Db) -> None:
    enqueue(queue)
    let_time_pass(db)
    StartDeadline(db).sweep()
    OperatorActions(db).reset("a", by="ana")
    assert "startBy" in found(db)
    assert StartDeadline(db).sweep() == 0


def test_the_time_begins_when_no_other_run_is_waited_for(queue: RunQueue, db: Db) -> None:
    enqueue(queue, "first", None)
    enqueue(queue, after=("first",))
    assert "startBy" not in found(db)
    claim = queue.claim(WORKER)
    assert claim is not None
    OperatorActions(db).reset("a", by="ana", from_scratch=True)
    assert "startBy" not in found(db), "it waits again"
    queue.settle(claim.lease.fence, Succeeded({}))
    assert "startBy" in found(db)
    let_time_pass(db)
    assert StartDeadline(db).sweep() == 1


def test_a_hand_made_run_that_waits_for_another_one_is_not_overdue(queue: RunQueue, db: Db) -> None:
    enqueue(queue, "first", None)
    enqueue(queue)
    db.runs.update_one({"_id": "a"}, {"$set": {"blockedBy": ["first"]}})
    let_time_pass(db)
    assert StartDeadline(db).sweep() == 0


@pytest.mark.parametrize("seconds", [1e300, -5, float("nan"), "soon"])
def test_a_hand_made_time_that_means_nothing_is_no_limit(queue: RunQueue, db: Db, seconds: object) -> None:
    enqueue(queue)
    db.runs.update_one({"_id": "a"}, {"$set": {"status": "FAILED", "maxQueueSeconds": seconds}})
    assert OperatorActions(db).reset("a").verdict is ActionResult.DONE
    assert "startBy" not in found(db)


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan")])
def test_times_that_mean_nothing_are_refused(queue: RunQueue, seconds: float) -> None:
    with pytest.raises(InvalidRunError, match="max_queue_seconds"):
        enqueue(queue, seconds=seconds)


def test_looking_costs_an_index(queue: RunQueue, db: Db) -> None:
    enqueue(queue)
    condition = {"status": "QUEUED", "startBy": {"$type": "date"}, "$expr": {"$lt": ["$startBy", "$$NOW"]}}
    assert "'start_by'" in str(db.runs.find(condition).explain()["queryPlanner"]["winningPlan"])


def test_a_stage_that_is_retried_has_the_time_again(queue: RunQueue, db: Db) -> None:
    enqueue(queue)
    db.runs.update_one({"_id": "a"}, {"$set": {"status": "FAILED", "checkpoints.one": {"done": True}}})
    let_time_pass(db)
    OperatorActions(db).retry_stage("a", "one", by="ana")
    assert found(db)["status"] == "QUEUED"
    assert StartDeadline(db).sweep() == 0
