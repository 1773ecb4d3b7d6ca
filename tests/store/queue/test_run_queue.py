"""The queue on a real MongoDB: who owns a run, what a stale owner can do (nothing), what failures cost."""

from __future__ import annotations

import random
import threading
from dataclasses import fields
from datetime import timedelta
from typing import Any

import pytest
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from pod_worker.core.clock import SystemClock
from pod_worker.core.failure import Failure, FailureCode
from pod_worker.core.lease import Fence, RenewalResult
from pod_worker.core.outcome import Canceled, Failed, Lost, Outcome, Released, Succeeded
from pod_worker.core.run import Checkpoint, Requirements, RunStatus
from pod_worker.core.worker_offer import WorkerOffer, unmet_requirements
from pod_worker.store.queue.claiming import CLAIM_SORT, claimable_filter
from pod_worker.store.queue.contention import UNCONTENDED_LOOK_AHEAD
from pod_worker.store.queue.operations import ActionResult, OperatorActions
from pod_worker.store.queue.rescue import Rescue, expired_lease_filter
from pod_worker.store.queue.run_document import requirements_document
from pod_worker.store.queue.run_queue import Claim, ClaimingWorker, RunQueue, RunRequest
from tests.store.commands import Commands, watched
from tests.store.unreliable import Loss, Unreliable

Db = Database[dict[str, Any]]


@pytest.fixture
def queue(db: Db) -> RunQueue:
    return RunQueue(db, SystemClock(), rng=random.Random(1))


@pytest.fixture
def rescue(db: Db) -> Rescue:
    return Rescue(db)


@pytest.fixture
def operations(db: Db) -> OperatorActions:
    return OperatorActions(db)


def request(name: str, **fields: Any) -> RunRequest:
    return RunRequest(**({"id": name, "pipeline": "synthetic", "params": {}} | fields))


def claimant(worker: str = "w1", **fields: Any) -> ClaimingWorker:
    base = {"worker_id": worker, "pod_id": "pod", "queues": ("synthetic",), "pipelines": ("synthetic",)}
    return ClaimingWorker(**(base | fields))


def claimed(queue: RunQueue, worker: str = "w1") -> Claim:
    claim = queue.claim(claimant(worker))
    assert claim is not None
    return claim


def expire(db: Db, run_id: str) -> None:
    db.runs.update_one({"_id": run_id}, [{"$set": {"leaseExpiresAt": {"$subtract": ["$$NOW", 1]}}}])


def failed(code: FailureCode) -> Failed:
    return Failed(Failure(code, "broke"))


# ── enqueue ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_enqueue_stores_params_as_data_even_when_they_look_like_expressions(queue: RunQueue) -> None:
    params = {"text": "$secret", "nested": {"$add": [1, 2]}}

    run, is_new = queue.enqueue(request("a", params=params))

    assert is_new
    assert run.params == params
    assert run.queued_at is not None


def test_concurrent_enqueues_of_one_unique_key_make_one_run(queue: RunQueue, db: Db) -> None:
    barrier = threading.Barrier(8)
    results = []

    def enqueue(number: int) -> None:
        barrier.wait()
        results.append(queue.enqueue(request(f"run-{number}", unique_key="the-one")))

    threads = [threading.Thread(target=enqueue, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(results) == 8
    assert sum(is_new for _, is_new in results) == 1
    assert len({run.id for run, _ in results}) == 1
    assert db.runs.count_documents({}) == 1


def test_the_database_itself_refuses_a_second_run_of_one_key(queue: RunQueue, db: Db) -> None:
    """Two upserts in the same moment both find nothing: only the index can tell them apart."""
    queue.enqueue(request("a", unique_key="the-one"))
    with pytest.raises(DuplicateKeyError):
        db.runs.insert_one({"_id": "b", "uniqueKey": "the-one"})
    db.runs.insert_many([{"_id": "c"}, {"_id": "d"}])  # runs without a key are not one run


def test_bulk_enqueue_counts_only_new_runs(queue: RunQueue) -> None:
    queue.enqueue(request("old", unique_key="k0"))
    assert queue.enqueue_many([request(f"r{n}", unique_key=f"k{n}") for n in range(5)]) == 4


# ── claim ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_claim_takes_the_highest_priority_then_the_oldest(queue: RunQueue) -> None:
    for name, priority in (("low", 0), ("first", 5), ("second", 5)):
        queue.enqueue(request(name, priority=priority))
    assert [claimed(queue).run.id for _ in range(3)] == ["first", "second", "low"]


def test_claim_raises_the_attempt_and_grants_a_lease_by_server_time(queue: RunQueue, db: Db) -> None:
    queue.enqueue(request("a"))
    claim = claimed(queue)

    assert claim.run.status is RunStatus.SCHEDULED
    assert claim.lease.fence.attempt == 1
    document = db.runs.find_one({"_id": "a"})
    assert document is not None
    length = document["leaseExpiresAt"] - document["claimedAt"]
    assert length == timedelta(seconds=60)
    assert document["leaseToken"] == claim.lease.fence.token


def test_one_run_many_claimers_one_owner(queue: RunQueue) -> None:
    for number in range(10):
        queue.enqueue(request(f"r{number:02d}"))
    barrier = threading.Barrier(16)
    owned: list[str] = []

    def work(number: int) -> None:
        barrier.wait()
        while claim := queue.claim(claimant(f"w{number}")):
            owned.append(claim.run.id)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(owned) == [f"r{number:02d}" for number in range(10)]


def test_each_run_of_a_pod_is_executed_once_when_one_of_its_workers_dies(
    queue: RunQueue, rescue: Rescue, db: Db
) -> None:
    """Two workers with one pod id: which of them holds a run is told by its token, never by the pod."""
    queue.enqueue_many([request(f"r{number}") for number in range(8)])
    first, second = claimant("pod:1"), claimant("pod:2")
    dead = queue.claim(first)
    assert dead is not None
    assert queue.settle(queue.claim(second).lease.fence, Succeeded()) is not None  # type: ignore[union-attr]
    expire(db, dead.run.id)
    assert [each.run.id for each in rescue.sweep()] == [dead.run.id]
    settled = 1
    assert queue.settle(dead.lease.fence, Succeeded()) is None, "the dead one is back"
    while claim := queue.claim(second):
        assert queue.settle(dead.lease.fence, Succeeded()) is None
        settled += queue.settle(claim.lease.fence, Succeeded()) is not None
    assert settled == db.runs.count_documents({"status": "COMPLETED", "settledToken": {"$exists": True}}) == 8


def test_a_run_that_must_wait_is_not_claimed(queue: RunQueue, db: Db) -> None:
    queue.enqueue(request("a"))
    db.runs.update_one({"_id": "a"}, [{"$set": {"runAfter": {"$add": ["$$NOW", 60_000]}}}])
    assert queue.claim(claimant()) is None
    db.runs.update_one({"_id": "a"}, [{"$set": {"runAfter": {"$subtract": ["$$NOW", 1]}}}])
    assert queue.claim(claimant()) is not None


def vram(smallest: float, largest: float) -> dict[str, float]:
    return {"smallest_vram_gb": smallest, "largest_vram_gb": largest}


def test_every_requirement_is_compared_by_query_and_rule(queue: RunQueue) -> None:
    names = {field.name for field in fields(Requirements)}
    assert (
        unmet_requirements(Requirements("x", 9, "r", -1, 9, 9, 9, 9), WorkerOffer(cpus=1, memory_gb=1, disk_gb=1))
        == names
    )
    stored = requirements_document(Requirements("x", 9, "r", 9, 9, 9, 9, 9))
    assert {f"requirements.{name}" for name in stored} <= claimable_filter(claimant()).keys()


@pytest.mark.parametrize(
    ("needs", "able", "unable"),
    [
        (Requirements(gpu="RTX 4090"), {"gpu_names": ("RTX 4090",)}, {"gpu_names": ("A100",)}),
        (Requirements(min_vram_gb=40), vram(48.0, 80.0), vram(24.0, 80.0)),
        (Requirements(max_vram_gb=48), vram(24.0, 48.0), vram(24.0, 80.0)),
        (Requirements(gpu_count=2), {"gpu_count": 2}, {"gpu_count": 1}),
        (Requirements(cpus=8), {"cpus": 8.0}, {"cpus": 4.0}),
        (Requirements(memory_gb=64), {"memory_gb": 128.0}, {"memory_gb": 24.0}),
        (Requirements(disk_gb=100), {"disk_gb": 100.0}, {"disk_gb": 99.0}),
        (Requirements(region="EU-RO-1"), {"region": "EU-RO-1"}, {"region": "US-TX-1"}),
        (Requirements(region="EU-RO-1"), {"region": "EU-RO-1"}, {}),
    ],
)
def test_only_a_pod_that_satisfies_the_requirements_claims(
    queue: RunQueue, needs: Requirements, able: dict[str, Any], unable: dict[str, Any]
) -> None:
    """The query and the rule for people say the same."""
    queue.enqueue(request("a", requirements=needs))
    for offer, is_able in ((WorkerOffer(**unable), False), (WorkerOffer(**able), True)):
        assert (queue.claim(claimant(offer=offer)) is not None) == is_able
        assert (not unmet_requirements(needs, offer)) == is_able


def test_a_pipeline_the_worker_does_not_know_is_left_for_others(queue: RunQueue) -> None:
    queue.enqueue(request("a", pipeline="tomorrow", queue="synthetic"))
    assert queue.claim(claimant()) is None


def test_a_paused_queue_is_not_claimed_from_and_other_queues_are(
    queue: RunQueue, operations: OperatorActions
) -> None:
    queue.enqueue(request("a"))
    queue.enqueue(request("b", queue="other"))
    both = claimant(queues=("synthetic", "other"))

    operations.pause("synthetic", by="ana")
    first = queue.claim(both)
    assert first is not None
    assert first.run.id == "b"
    assert queue.claim(both) is None

    operations.resume("synthetic")
    again = queue.claim(both)
    assert again is not None
    assert again.run.id == "a"


def test_claim_and_rescue_use_their_indexes(queue: RunQueue, db: Db) -> None:
    queue.enqueue_many([request(f"r{n}") for n in range(200)])
    offer = WorkerOffer(("H100",), 2, 80, 80, 8, 64, 100, "EU")
    plan = (
        db.runs.find(claimable_filter(claimant(queues=("synthetic", "x"), offer=offer)), {"_id": 1})
        .sort(CLAIM_SORT)
        .limit(8)
        .explain()["queryPlanner"]["winningPlan"]
    )
    assert "'claim'" in str(plan)
    assert "SORT'" not in str(plan).replace("SORT_MERGE'", "")

    assert "'leases'" in str(db.runs.find(expired_lease_filter()).explain()["queryPlanner"]["winningPlan"])


def test_a_unique_key_is_looked_up_by_its_index(queue: RunQueue, db: Db, mongodb_url: str) -> None:
    queue.enqueue_many([request(f"r{n}", unique_key=f"k{n}") for n in range(50)])
    commands = Commands()
    with watched(mongodb_url, commands) as seen:
        RunQueue(seen, SystemClock()).enqueue(request("again", unique_key="k7"))
    [asked] = [each["query"] for each in commands.seen if "findAndModify" in each]
    explained = db.runs.find(asked).explain()
    assert explained["executionStats"]["totalDocsExamined"] == 1


def test_a_long_paused_queue_does_not_hide_the_others(queue: RunQueue, operations: OperatorActions) -> None:
    queue.enqueue_many(
        [request(f"r{n:02d}", queue="paused", priority=9) for n in range(UNCONTENDED_LOOK_AHEAD + 1)]
    )
    queue.enqueue(request("a"))
    operations.pause("paused")

    claim = queue.claim(claimant(queues=("synthetic", "paused")))
    assert claim is not None
    assert claim.run.id == "a"


def test_a_claim_whose_reply_was_lost_is_found_by_its_token(db: Db, queue: RunQueue) -> None:
    queue.enqueue(request("a"))
    losses = iter([Loss.REPLY])
    lossy = RunQueue(Unreliable(db, lambda _call: next(losses, Loss.NOTHING)), SystemClock())  # type: ignore[arg-type]

    claim = lossy.claim(claimant())
    assert claim is not None
    assert (claim.run.attempt, claim.run.status) == (1, RunStatus.SCHEDULED)
    assert queue.start(claim.lease.fence)


# ── the fence ───────────────────────────────────────────────────────────────────────────────────────────────


def stale_fences(fence: Fence) -> list[Fence]:
    return [
        Fence(fence.run_id, fence.attempt + 1, fence.token),
        Fence(fence.run_id, fence.attempt, "0" * 32),
        Fence("other", fence.attempt, fence.token),
    ]


@pytest.mark.parametrize("which", range(3))
def test_every_write_with_a_wrong_attempt_token_or_run_is_refused(queue: RunQueue, db: Db, which: int) -> None:
    queue.enqueue(request("a"))
    fence = stale_fences(claimed(queue).lease.fence)[which]
    before = db.runs.find_one({"_id": "a"})

    assert not queue.start(fence)
    assert not queue.checkpoint(fence, Checkpoint("Stage_1", True))
    assert queue.settle(fence, Succeeded()) is None
    assert db.runs.find_one({"_id": "a"}) == before


def test_a_rescued_worker_can_write_nothing_more(queue: RunQueue, rescue: Rescue, db: Db) -> None:
    queue.enqueue(request("a"))
    old = claimed(queue, "w1")
    expire(db, "a")
    assert [each.run.id for each in rescue.sweep()] == ["a"]
    new = claimed(queue, "w2")
    before = db.runs.find_one({"_id": "a"})

    assert queue.renew(old.lease)[0] is RenewalResult.LOST
    assert not queue.checkpoint(old.lease.fence, Checkpoint("Stage_1", True))
    assert queue.settle(old.lease.fence, Succeeded()) is None
    assert db.runs.find_one({"_id": "a"}) == before
    assert new.lease.fence.attempt == old.lease.fence.attempt + 1


def test_renewing_prolongs_by_server_time_and_an_expired_lease_stays_expired(queue: RunQueue, db: Db) -> None:
    queue.enqueue(request("a"))
    claim = claimed(queue)
    db.runs.update_one({"_id": "a"}, [{"$set": {"leaseExpiresAt": {"$add": ["$$NOW", 1000]}}}])
    before = db.runs.find_one({"_id": "a"})["leaseExpiresAt"]  # type: ignore[index]

    verdict, lease = queue.renew(claim.lease)
    assert verdict is RenewalResult.OK
    assert lease.asked_at >= claim.lease.asked_at
    assert db.runs.find_one({"_id": "a"})["leaseExpiresAt"] > before  # type: ignore[index]

    expire(db, "a")
    assert queue.renew(lease)[0] is RenewalResult.LOST


# ── settle ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_success_completes_and_frees_the_lease(queue: RunQueue, db: Db) -> None:
    queue.enqueue(request("a"))
    fence = claimed(queue).lease.fence
    queue.start(fence)
    settlement = queue.settle(fence, Succeeded())
    assert settlement is not None
    assert settlement.status is RunStatus.COMPLETED
    document = db.runs.find_one({"_id": "a"})
    assert document is not None
    assert "leaseToken" not in document
    assert document["completedAt"]


def test_settling_again_after_an_unknown_outcome_answers_the_same(queue: RunQueue) -> None:
    queue.enqueue(request("a"))
    fence = claimed(queue).lease.fence
    first = queue.settle(fence, Succeeded())
    second = queue.settle(fence, Succeeded())
    assert first is not None
    assert second is not None
    assert first.status is second.status is RunStatus.COMPLETED


def test_settling_again_answers_the_same_even_when_somebody_else_has_had_the_run_since(queue: RunQueue) -> None:
    queue.enqueue(request("a"))
    fence = claimed(queue).lease.fence
    first = queue.settle(fence, Released("drain"))
    later = claimed(queue, "w2").lease.fence
    assert queue.settle(fence, Released("drain")) == first

    queue.settle(later, Succeeded())
    assert queue.settle(fence, Released("drain")) is None  # two attempts later it is forgotten


def test_a_result_for_review_waits_for_a_person(queue: RunQueue, db: Db) -> None:
    queue.enqueue(request("a"))
    fence = claimed(queue).lease.fence
    queue.start(fence)
    settlement = queue.settle(fence, Succeeded(awaits_review=True))
    assert settlement is not None
    assert settlement.status is RunStatus.AWAITING_HUMAN
    document = db.runs.find_one({"_id": "a"})
    assert document is not None
    assert document["status"] == "AWAITING_HUMAN"
    assert document["completedAt"]
    assert "leaseToken" not in document


def test_a_cancel_between_the_settles_look_and_its_write_is_not_forgotten(
    db: Db, queue: RunQueue, operations: OperatorActions
) -> None:
    queue.enqueue(request("a"))
    fence = claimed(queue).lease.fence
    verdicts: list[ActionResult] = []

    def cancel_first(_call: str) -> Loss:
        if not verdicts:
            verdicts.append(operations.cancel("a").verdict)
        return Loss.NOTHING

    settlement = RunQueue(Unreliable(db, cancel_first), SystemClock()).settle(fence, Released("drain"))  # type: ignore[arg-type]
    assert verdicts == [ActionResult.REQUESTED]
    assert settlement is not None
    assert settlement.status is RunStatus.CANCELED


def test_a_lost_outcome_writes_nothing(queue: RunQueue, db: Db) -> None:
    queue.enqueue(request("a"))
    fence = claimed(queue).lease.fence
    before = db.runs.find_one({"_id": "a"})
    assert queue.settle(fence, Lost("x")) is None
    assert db.runs.find_one({"_id": "a"}) == before


@pytest.mark.parametrize(
    ("outcome", "status", "retries", "crashes"),
    [
        (Released("drain"), RunStatus.QUEUED, 0, 0),
        (Canceled(), RunStatus.CANCELED, 0, 0),
        (failed(FailureCode.USER_ERROR), RunStatus.FAILED, 1, 0),
        (failed(FailureCode.HOST_OOM), RunStatus.QUEUED, 1, 0),
        (failed(FailureCode.NETWORK), RunStatus.QUEUED, 0, 1),
        (failed(FailureCode.CRASHED_SIGNAL), RunStatus.QUEUED, 0, 1),
    ],
)
def test_each_outcome_has_one_state_and_spends_one_budget(
    queue: RunQueue, db: Db, outcome: Outcome, status: RunStatus, retries: int, crashes: int
) -> None:
    queue.enqueue(request("a"))
    queue.settle(claimed(queue).lease.fence, outcome)
    document = db.runs.find_one({"_id": "a"})
    assert document is not None
    assert (document["status"], document["retryCount"], document["crashCount"]) == (status, retries, crashes)


def rerun(queue: RunQueue, db: Db, outcome: Outcome) -> RunStatus:
    db.runs.update_one({"_id": "a"}, {"$unset": {"runAfter": 1}})
    settlement = queue.settle(claimed(queue).lease.fence, outcome)
    assert settlement is not None
    return settlement.status


def test_max_attempts_limits_failed_attempts_of_every_kind(queue: RunQueue, rescue: Rescue, db: Db) -> None:
    queue.enqueue(request("a", max_attempts=4))
    assert rerun(queue, db, failed(FailureCode.NETWORK)) is RunStatus.QUEUED
    assert rerun(queue, db, failed(FailureCode.HOST_OOM)) is RunStatus.QUEUED
    db.runs.update_one({"_id": "a"}, {"$unset": {"runAfter": 1}})
    claimed(queue)
    expire(db, "a")
    [rescued] = rescue.sweep()
    assert rescued.run.status is RunStatus.QUEUED
    assert rescued.run.failed_attempts == 3
    assert rerun(queue, db, failed(FailureCode.CRASHED_SIGNAL)) is RunStatus.FAILED


@pytest.mark.parametrize("code", [FailureCode.CRASHED_SIGNAL, FailureCode.NETWORK, FailureCode.HOST_OOM])
def test_one_attempt_means_one_attempt(queue: RunQueue, db: Db, code: FailureCode) -> None:
    queue.enqueue(request("a", max_attempts=1))
    assert rerun(queue, db, failed(code)) is RunStatus.FAILED


def test_one_attempt_means_one_attempt_when_its_worker_dies(queue: RunQueue, rescue: Rescue, db: Db) -> None:
    queue.enqueue(request("a", max_attempts=1))
    claimed(queue)
    expire(db, "a")
    [rescued] = rescue.sweep()
    assert rescued.run.status is RunStatus.FAILED


def test_released_attempts_are_not_counted(queue: RunQueue, db: Db) -> None:
    queue.enqueue(request("a", max_attempts=2))
    for _ in range(3):
        assert rerun(queue, db, Released("the pod stops")) is RunStatus.QUEUED
    assert rerun(queue, db, failed(FailureCode.NETWORK)) is RunStatus.QUEUED


def test_the_end_of_a_run_by_network_failures_says_so(queue: RunQueue, db: Db) -> None:
    queue.enqueue(request("a", max_attempts=2))
    for _ in range(2):
        rerun(queue, db, Failed(Failure(FailureCode.NETWORK, "no route to api.example")))
    run = queue.get("a")
    assert run is not None
    assert run.error_code == "POISON"
    assert "NETWORK: no route to api.example" in (run.error_message or "")
    assert "crash" not in (run.error_message or "")


def test_a_reset_gives_the_attempts_back(queue: RunQueue, operations: OperatorActions, db: Db) -> None:
    """`attempt` goes on rising, because it fences; what was spent of `max_attempts` starts again at 0."""
    queue.enqueue(request("a", max_attempts=2))
    for _ in range(2):
        rerun(queue, db, failed(FailureCode.HOST_OOM))
    after = operations.reset("a").run
    assert after is not None
    assert (after.attempt, after.failed_attempts) == (3, 0)
    assert rerun(queue, db, failed(FailureCode.HOST_OOM)) is RunStatus.QUEUED


def test_a_crash_loop_ends_as_poison_and_progress_resets_the_count(queue: RunQueue, db: Db) -> None:
    queue.enqueue(request("a"))
    for _ in range(4):
        assert rerun(queue, db, failed(FailureCode.CRASHED_SIGNAL)) is RunStatus.QUEUED
    db.runs.update_one({"_id": "a"}, {"$unset": {"runAfter": 1}})
    claim = claimed(queue)
    assert queue.checkpoint(claim.lease.fence, Checkpoint("Stage_1", True))
    queue.settle(claim.lease.fence, failed(FailureCode.CRASHED_SIGNAL))
    for _ in range(3):
        assert rerun(queue, db, failed(FailureCode.CRASHED_SIGNAL)) is RunStatus.QUEUED
    assert rerun(queue, db, failed(FailureCode.CRASHED_SIGNAL)) is RunStatus.FAILED
    document = db.runs.find_one({"_id": "a"})
    assert document is not None
    assert document["errorCode"] == "POISON"
    assert "CRASHED_SIGNAL" in document["errorMessage"]


# ── rescue ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_rescue_leaves_live_leases_alone_and_requeues_dead_ones_with_their_checkpoints(
    queue: RunQueue, rescue: Rescue, db: Db
) -> None:
    for name in ("dead", "live"):
        queue.enqueue(request(name))
    dead = claimed(queue)
    claimed(queue, "w2")
    queue.checkpoint(dead.lease.fence, Checkpoint("Stage_1", True, {"loss": 1.5}))
    expire(db, "dead")

    assert [(each.run.id, each.worker_id) for each in rescue.sweep()] == [("dead", "w1")]
    run = queue.get("dead")
    assert run is not None
    assert run.status is RunStatus.QUEUED
    assert run.is_done("Stage_1")
    assert run.checkpoints["Stage_1"].state == {"loss": 1.5}
    assert rescue.sweep() == []


def test_rescue_of_a_run_that_keeps_killing_workers_ends_as_poison(
    queue: RunQueue, rescue: Rescue, db: Db
) -> None:
    queue.enqueue(request("a"))
    for _ in range(5):
        claimed(queue)
        expire(db, "a")
        [rescued] = rescue.sweep()
    assert rescued.run.status is RunStatus.FAILED
    assert rescued.run.error_code == "POISON"


def test_a_canceled_run_whose_worker_died_is_canceled_by_the_rescue(
    queue: RunQueue, rescue: Rescue, operations: OperatorActions, db: Db
) -> None:
    queue.enqueue(request("a"))
    claimed(queue)
    assert operations.cancel("a", by="ana").verdict is ActionResult.REQUESTED
    expire(db, "a")
    [rescued] = rescue.sweep()
    assert rescued.run.status is RunStatus.CANCELED


# ── operators ───────────────────────────────────────────────────────────────────────────────────────────────


def test_cancel_ends_a_waiting_run_and_asks_a_running_one(queue: RunQueue, operations: OperatorActions) -> None:
    queue.enqueue(request("waiting", priority=-1))
    queue.enqueue(request("running"))
    claim = claimed(queue)

    assert operations.cancel("waiting").verdict is ActionResult.DONE
    assert operations.cancel("running", by="ana").verdict is ActionResult.REQUESTED
    assert queue.renew(claim.lease)[0] is RenewalResult.CANCEL
    settlement = queue.settle(claim.lease.fence, Canceled())
    assert settlement is not None
    assert settlement.status is RunStatus.CANCELED
    assert operations.cancel("running").verdict is ActionResult.ALREADY
    assert operations.cancel("absent").verdict is ActionResult.MISSING


def test_reset_refuses_a_live_lease_and_force_fences_it(queue: RunQueue, operations: OperatorActions) -> None:
    queue.enqueue(request("a"))
    claim = claimed(queue)
    assert operations.reset("a").verdict is ActionResult.LIVE

    answer = operations.reset("a", by="ana", force=True)
    assert answer.verdict is ActionResult.DONE
    assert answer.run is not None
    assert answer.run.attempt == 2
    assert queue.renew(claim.lease)[0] is RenewalResult.LOST
    assert queue.settle(claim.lease.fence, Succeeded()) is None


def test_a_run_taken_from_a_living_worker_is_claimable_only_when_its_lease_is_over(
    queue: RunQueue, operations: OperatorActions, db: Db
) -> None:
    """Its worker hears of the reset at the next renewal; until the lease it was granted ends, its GPU may be busy."""
    queue.enqueue(request("a"))
    claimed(queue)
    for _ in range(2):  # a repeated click
        assert operations.reset("a", by="ana", force=True).verdict is ActionResult.DONE
        assert queue.claim(claimant()) is None
    db.runs.update_one({"_id": "a"}, [{"$set": {"heldUntil": {"$subtract": ["$$NOW", 1]}}}])
    assert claimed(queue).run.attempt == 4
    document = db.runs.find_one({"_id": "a"})
    assert document is not None
    assert "heldUntil" not in document


def test_reset_keeps_finished_stages_of_a_failed_run_and_forgets_those_of_a_complete_one(
    queue: RunQueue, operations: OperatorActions
) -> None:
    for name, outcome in (("failed", failed(FailureCode.USER_ERROR)), ("complete", Succeeded())):
        queue.enqueue(request(name))
        fence = claimed(queue).lease.fence
        queue.checkpoint(fence, Checkpoint("Stage_1", True))
        queue.settle(fence, outcome)
        operations.reset(name)
    kept, forgotten = queue.get("failed"), queue.get("complete")
    assert kept is not None
    assert forgotten is not None
    assert kept.is_done("Stage_1")
    assert kept.error_code is None
    assert not forgotten.is_done("Stage_1")


def test_retry_stage_forgets_only_that_stage(queue: RunQueue, operations: OperatorActions) -> None:
    queue.enqueue(request("a"))
    fence = claimed(queue).lease.fence
    for stage in ("Stage_1", "paper"):
        queue.checkpoint(fence, Checkpoint(stage, True))
    queue.settle(fence, Succeeded())

    assert operations.retry_stage("a", "paper").verdict is ActionResult.DONE
    run = queue.get("a")
    assert run is not None
    assert run.status is RunStatus.QUEUED
    assert list(run.checkpoints) == ["Stage_1"]


def test_retry_stage_forgets_the_later_stages_that_are_named(queue: RunQueue, operations: OperatorActions) -> None:
    queue.enqueue(request("a"))
    fence = claimed(queue).lease.fence
    for stage in ("Stage_1", "paper", "validation"):
        queue.checkpoint(fence, Checkpoint(stage, True))
    queue.settle(fence, Succeeded(awaits_review=True))

    assert operations.retry_stage("a", "paper", later=("validation",)).verdict is ActionResult.DONE
    run = queue.get("a")
    assert run is not None
    assert list(run.checkpoints) == ["Stage_1"]


def test_a_run_that_awaits_a_person_can_repeat_a_stage(queue: RunQueue, operations: OperatorActions) -> None:
    queue.enqueue(request("a"))
    fence = claimed(queue).lease.fence
    queue.checkpoint(fence, Checkpoint("paper", True))
    queue.settle(fence, Succeeded(awaits_review=True))

    assert operations.retry_stage("a", "paper").verdict is ActionResult.DONE
    assert operations.retry_stage("a", "paper").verdict is ActionResult.LIVE, "it is queued now"


def test_hand_made_runs_can_be_canceled_reset_and_tried_again(operations: OperatorActions, db: Db) -> None:
    db.runs.insert_one({"_id": "starting", "status": "STARTING"})
    db.runs.insert_one({"_id": "ended", "status": "COMPLETED", "checkpoints": {"paper": {"done": True}}})

    assert operations.cancel("starting").verdict is ActionResult.DONE
    assert operations.reset("starting").verdict is ActionResult.DONE
    assert operations.retry_stage("ended", "paper").verdict is ActionResult.DONE
    assert [run["status"] for run in db.runs.find()] == ["QUEUED", "QUEUED"]


def test_one_bad_document_breaks_neither_claim_nor_read(queue: RunQueue, db: Db) -> None:
    db.runs.insert_one(
        {"_id": "bad", "status": "WEIRD", "queue": 7, "params": [], "checkpoints": "x", "attempt": "y"}
    )
    queue.enqueue(request("good"))
    assert claimed(queue).run.id == "good"
    bad = queue.get("bad")
    assert bad is not None
    assert bad.params == {}


@pytest.mark.parametrize(
    ("words", "max_attempts", "status", "code"),
    [
        (("interruption",), 5, "QUEUED", "WORKER_LOST"),
        (("interruption",), 1, "FAILED", "POISON"),
        (("error",), 5, "FAILED", "WORKER_LOST"),
        ((), 1, "FAILED", "WORKER_LOST"),
    ],
)
def test_the_run_of_a_dead_worker_is_queued_again_only_where_interruptions_are_retried(
    queue: RunQueue, rescue: Rescue, db: Db, words: tuple[str, ...], max_attempts: int, status: str, code: str
) -> None:
    queue.enqueue(request("a", retry_on=words, max_attempts=max_attempts))
    claimed(queue)
    expire(db, "a")
    rescue.sweep()
    found = db.runs.find_one({"_id": "a"}) or {}
    assert (found["status"], found["errorCode"]) == (status, code)
    is_unwanted = "interruption" not in words
    assert ("its retry.on does not list interruption" in found["errorMessage"]) == is_unwanted


def test_an_end_that_only_the_retry_words_made_final_says_so(queue: RunQueue, db: Db) -> None:
    queue.enqueue(request("a", retry_on=("error",)))
    queue.settle(claimed(queue).lease.fence, Failed(Failure(FailureCode.NETWORK, "no route to host")))
    found = db.runs.find_one({"_id": "a"}) or {}
    assert (found["status"], found["errorCode"], found["retryable"]) == ("FAILED", "NETWORK", False)
    assert found["errorMessage"].startswith("no route to host\n")
    assert "retry.on does not list interruption" in found["errorMessage"]


def test_the_exit_code_of_a_program_decides_and_is_kept(queue: RunQueue, db: Db) -> None:
    queue.enqueue(request("a", retry_on=("exit:3",)))
    for code, status in ((3, "QUEUED"), (4, "FAILED")):
        outcome = Failed(Failure(FailureCode.USER_ERROR, "broke", exit_code=code))
        queue.settle(claimed(queue).lease.fence, outcome)
        found = db.runs.find_one({"_id": "a"}) or {}
        assert (found["status"], found["exitCode"]) == (status, code)
