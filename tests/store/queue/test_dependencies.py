"""Runs that wait for other runs, on a real MongoDB."""

from __future__ import annotations

import random
from typing import Any

import pytest
from pymongo.database import Database

from pod_worker.core.clock import SystemClock
from pod_worker.core.failure import Failure, FailureCode
from pod_worker.core.outcome import Canceled, Failed, Outcome, Released, Succeeded
from pod_worker.core.run import AfterFailure, InvalidRunError
from pod_worker.store.queue.dependencies import Dependencies, find_cycle
from pod_worker.store.queue.operations import OperatorActions
from pod_worker.store.queue.rescue import Rescue
from pod_worker.store.queue.run_queue import ClaimingWorker, RunQueue, RunRequest
from pod_worker.store.queue.run_request import in_dependency_order

Db = Database[dict[str, Any]]
WORKER = ClaimingWorker("w1", "pod", ("synthetic",), ("synthetic",))
BROKEN = Failed(Failure(FailureCode.USER_ERROR, "broke"))


@pytest.fixture
def queue(db: Db) -> RunQueue:
    return RunQueue(db, SystemClock(), rng=random.Random(1))


def request(name: str, *after: str, **fields: Any) -> RunRequest:
    return RunRequest(name, "synthetic", {}, after=after, **fields)


def settle(queue: RunQueue, run_id: str, outcome: Outcome) -> None:
    claim = queue.claim(WORKER, run_id)
    assert claim is not None, f"{run_id} cannot be claimed"
    queue.settle(claim.lease.fence, outcome)


def status(db: Db, run_id: str) -> str:
    return str((db.runs.find_one({"_id": run_id}) or {})["status"])


@pytest.mark.parametrize("outcome", [Succeeded({}), Succeeded({}, awaits_review=True)])
def test_a_run_starts_when_its_dependencies_ended_well(queue: RunQueue, db: Db, outcome: Outcome) -> None:
    queue.enqueue(request("a"))
    queue.enqueue(request("b"))
    queue.enqueue(request("c", "a", "b", priority=9))
    settle(queue, "a", outcome)
    assert queue.claim(WORKER, "c") is None, "b has not ended"
    settle(queue, "b", outcome)
    claim = queue.claim(WORKER, "c")
    assert claim is not None
    assert claim.run.after == ("a", "b")
    assert claim.run.blocked_by == ()


def test_a_released_dependency_is_still_waited_for(queue: RunQueue) -> None:
    queue.enqueue(request("a"))
    queue.enqueue(request("b", "a"))
    settle(queue, "a", Released("the pod goes away"))
    assert queue.claim(WORKER, "b") is None


@pytest.mark.parametrize("outcome", [BROKEN, Canceled()])
def test_a_run_fails_with_its_dependency_and_so_does_the_whole_chain(
    queue: RunQueue, db: Db, outcome: Outcome
) -> None:
    queue.enqueue(request("a"))
    queue.enqueue(request("b", "a"))
    queue.enqueue(request("c", "b"))
    settle(queue, "a", outcome)
    assert (status(db, "b"), status(db, "c")) == ("FAILED", "FAILED")
    found = db.runs.find_one({"_id": "b"}) or {}
    assert found["errorCode"] == "USER_ERROR"
    assert "waited for a, which ended as " in found["errorMessage"]
    assert "blockedBy" not in found


def test_a_run_that_skips_is_canceled(queue: RunQueue, db: Db) -> None:
    queue.enqueue(request("a"))
    queue.enqueue(request("b", "a", after_failure=AfterFailure.SKIP))
    settle(queue, "a", BROKEN)
    assert status(db, "b") == "CANCELED"
    assert "waited for a" in (db.runs.find_one({"_id": "b"}) or {})["cancelReason"]


def test_the_sweep_does_what_a_crash_left_out(queue: RunQueue, db: Db) -> None:
    queue.enqueue(request("a"))
    queue.enqueue(request("b", "a"))
    queue.enqueue(request("gone"))
    queue.enqueue(request("c", "gone"))
    db.runs.update_one({"_id": "a"}, {"$set": {"status": "COMPLETED"}})
    db.runs.delete_one({"_id": "gone"})
    Rescue(db).sweep()
    assert queue.claim(WORKER, "b") is not None
    assert status(db, "c") == "FAILED"
    assert "ended as deleted" in (db.runs.find_one({"_id": "c"}) or {})["errorMessage"]


def test_a_canceled_run_that_waits_stays_canceled(queue: RunQueue, db: Db) -> None:
    queue.enqueue(request("a"))
    queue.enqueue(request("b", "a"))
    OperatorActions(db).cancel("b", by="ana")
    settle(queue, "a", Succeeded({}))
    assert status(db, "b") == "CANCELED"


def test_a_reset_waits_only_for_what_is_still_going(queue: RunQueue, db: Db) -> None:
    queue.enqueue(request("a"))
    queue.enqueue(request("b"))
    queue.enqueue(request("c", "a", "b"))
    settle(queue, "a", BROKEN)
    assert status(db, "c") == "FAILED"
    OperatorActions(db).reset("c", by="ana")
    assert (db.runs.find_one({"_id": "c"}) or {})["blockedBy"] == ["b"]
    settle(queue, "b", Succeeded({}))
    assert queue.claim(WORKER, "c") is not None


def test_unknown_dependencies_are_refused_before_anything_is_written(queue: RunQueue, db: Db) -> None:
    with pytest.raises(InvalidRunError, match="do not exist: nowhere"):
        queue.enqueue_many([request("a"), request("b", "nowhere")])
    with pytest.raises(InvalidRunError, match="waits for itself"):
        queue.enqueue(request("a", "a"))
    assert db.runs.count_documents({}) == 0


def test_runs_that_wait_for_each_other_are_refused_with_the_circle(queue: RunQueue) -> None:
    with pytest.raises(InvalidRunError, match="a -> b -> a"):
        queue.enqueue_many([request("a", "b"), request("b", "a"), request("c", "a")])
    assert queue.enqueue_many([request("b", "a"), request("a")]) == 2


def test_who_waits_for_a_run_whose_key_exists_waits_for_the_run_that_has_the_key(queue: RunQueue, db: Db) -> None:
    queue.enqueue(request("first", unique_key="prepare"))
    batch = [request("c", "b", "again"), request("b", "again"), request("again", unique_key="prepare")]
    assert queue.enqueue_many(batch) == 2
    assert (db.runs.find_one({"_id": "b"}) or {})["after"] == ["first"]
    assert (db.runs.find_one({"_id": "c"}) or {})["blockedBy"] == ["b", "first"]
    Rescue(db).sweep()
    settle(queue, "first", Succeeded({}))
    settle(queue, "b", Succeeded({}))
    assert queue.claim(WORKER, "c") is not None


def test_the_end_of_a_waiting_run_takes_it_out_of_the_sweeps_indexes(queue: RunQueue, db: Db) -> None:
    """A sweep reads every document with these fields."""
    queue.enqueue(request("a"))
    queue.enqueue_many([request("b", "a"), request("c", max_queue_seconds=60)])
    for name in ("b", "c"):
        OperatorActions(db).cancel(name, by="ana")
    assert (
        db.runs.count_documents({"$or": [{"blockedBy": {"$exists": True}}, {"startBy": {"$exists": True}}]}) == 0
    )


def test_a_settle_that_is_repeated_releases_what_the_first_one_did_not(queue: RunQueue, db: Db) -> None:
    queue.enqueue(request("a"))
    claim = queue.claim(WORKER, "a")
    assert claim is not None
    queue.settle(claim.lease.fence, Succeeded({}))
    queue.enqueue(request("b", "a"))  # as if the first call had ended before the release
    assert queue.claim(WORKER, "b") is None
    queue.settle(claim.lease.fence, Succeeded({}))
    assert queue.claim(WORKER, "b") is not None


@pytest.mark.parametrize(
    ("after", "cycle"),
    [
        ({"a": ["b"], "b": ["c"], "c": ["b"]}, ["b", "c", "b"]),
        ({"a": ["b", "c"], "b": ["d"], "c": ["d"], "d": []}, []),
        ({"a": ["a"]}, ["a", "a"]),
        ({str(n): [str(n + 1)] for n in range(5_000)}, []),
    ],
)
def test_circles_are_found_and_long_chains_are_none(after: dict[str, list[str]], cycle: list[str]) -> None:
    assert find_cycle(after) == cycle


@pytest.mark.parametrize("odd", [5, [], [7], "a text", {"x": 1}])
def test_an_odd_list_holds_up_no_run(queue: RunQueue, db: Db, odd: object) -> None:
    queue.enqueue(request("a"))
    db.runs.update_one({"_id": "a"}, {"$set": {"blockedBy": odd}})
    Dependencies(db).sweep()
    assert queue.claim(WORKER, "a") is not None


def test_looking_costs_an_index(queue: RunQueue, db: Db) -> None:
    queue.enqueue(request("a"))
    queue.enqueue_many([request(f"r{n}", "a") for n in range(20)])
    for condition in ({"blockedBy": "a"}, {"blockedBy": {"$exists": True}}, {"blockedBy": {"$in": ["a", "b"]}}):
        plan = db.runs.find(condition | {"status": "QUEUED"}).explain()["queryPlanner"]["winningPlan"]
        assert "'blocked'" in str(plan), condition


def test_a_run_that_cannot_be_changed_holds_up_no_other_rescue(queue: RunQueue, db: Db) -> None:
    queue.enqueue(request("a", max_queue_seconds=60))
    queue.enqueue(request("done"))
    queue.enqueue(request("b", "done"))
    queue.enqueue(request("lost"))
    claim = queue.claim(WORKER, "lost")
    assert claim is not None
    past = {"$subtract": ["$$NOW", 1]}
    db.runs.update_one({"_id": "a"}, [{"$set": {"startBy": past}}])
    db.runs.update_one({"_id": "lost"}, [{"$set": {"leaseExpiresAt": past}}])
    db.runs.update_one({"_id": "done"}, {"$set": {"status": "COMPLETED"}})
    unchanged = [{"_id": {"$nin": ["a", "b"]}}, {"_id": "a", "status": "QUEUED"}, {"blockedBy": ["done"]}]
    db.command("collMod", "runs", validator={"$or": unchanged})
    Rescue(db).sweep()
    assert status(db, "lost") == "QUEUED"
    assert (status(db, "a"), status(db, "b")) == ("QUEUED", "QUEUED")


def test_runs_are_stored_after_those_that_they_wait_for() -> None:
    found = in_dependency_order([request("c", "b"), request("b", "a", "elsewhere"), request("a")])
    assert [each.id for each in found] == ["a", "b", "c"]
