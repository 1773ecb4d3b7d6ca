"""Whose clock decides: the server's for every lease and every wait, the holder's own for how long to trust it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from pymongo.database import Database

from pod_worker.core.clock import ManualClock, SystemClock
from pod_worker.core.failure import Failure, FailureCode
from pod_worker.core.lease import RenewalResult
from pod_worker.core.outcome import Failed, Succeeded
from pod_worker.core.run import Checkpoint
from pod_worker.store.queue.operations import OperatorActions
from pod_worker.store.queue.rescue import Rescue
from pod_worker.store.queue.run_queue import Claim, ClaimingWorker, RunQueue, RunRequest
from tests.store.commands import Commands, watched
from tests.store.unreliable import Loss, Unreliable

Db = Database[dict[str, Any]]
CLAIMANT = ClaimingWorker("w1", "pod", ("synthetic",), ("synthetic",))


def _moments(value: Any, path: str = "") -> Iterator[str]:
    if isinstance(value, datetime):
        yield path
    elif isinstance(value, dict):
        for name, inner in value.items():
            if name not in ("$clusterTime", "lsid"):
                yield from _moments(inner, f"{path}.{name}")
    elif isinstance(value, list):
        for inner in value:
            yield from _moments(inner, path)


def claimed(queue: RunQueue) -> Claim:
    claim = queue.claim(CLAIMANT)
    assert claim is not None
    return claim


def test_no_command_of_the_queue_carries_the_clients_time(mongodb_url: str, db: Db) -> None:
    """A clock that is an hour off must neither lengthen a lease nor end one."""
    sent = Commands()
    with watched(mongodb_url, sent) as database:
        live_a_little(RunQueue(database, SystemClock()), OperatorActions(database), Rescue(database))
    assert len(sent.seen) > 10
    moments = {path for command in sent.seen for path in _moments(command)}
    assert moments == set()


def live_a_little(queue: RunQueue, operations: OperatorActions, rescue: Rescue) -> None:
    queue.enqueue(RunRequest("a", "synthetic", {}))
    queue.enqueue_many([RunRequest("b", "synthetic", {})])
    first, second = claimed(queue), claimed(queue)
    queue.start(first.lease.fence)
    queue.checkpoint(first.lease.fence, Checkpoint("Stage_1", True))
    assert queue.renew(first.lease)[0] is RenewalResult.OK
    queue.settle(first.lease.fence, Failed(Failure(FailureCode.NETWORK, "x")))
    operations.cancel("b")
    assert rescue.sweep() == []
    queue.settle(second.lease.fence, Succeeded())
    operations.reset("b")
    operations.cancel("b")
    operations.retry_stage("b", "paper")
    operations.pause("synthetic")
    operations.resume("synthetic")


def test_a_lease_ends_by_the_servers_clock_whatever_the_claimer_thinks(db: Db) -> None:
    queue = RunQueue(db, ManualClock(), lease_seconds=60)
    queue.enqueue(RunRequest("a", "synthetic", {}))
    claimed(queue)
    document = db.runs.find_one({"_id": "a"})
    assert document is not None
    now = db.command("hello")["localTime"]
    assert abs(document["leaseExpiresAt"].replace(tzinfo=None) - now.replace(tzinfo=None)) < timedelta(seconds=90)


def test_trust_is_counted_from_before_the_request_was_sent(db: Db) -> None:
    """A slow answer makes the lease shorter for its holder, never longer."""
    clock = ManualClock()
    RunQueue(db, clock).enqueue(RunRequest("a", "synthetic", {}))

    def slowly(call: str) -> Loss:
        clock.advance(20)
        return Loss.NOTHING

    slow: Any = Unreliable(db, slowly)
    queue = RunQueue(slow, clock, lease_seconds=60, margin_seconds=15)
    began = clock.monotonic()
    lease = claimed(queue).lease
    assert (lease.asked_at, lease.trusted_until) == (began, began + 45)

    began = clock.monotonic()
    verdict, lease = queue.renew(lease)
    assert verdict is RenewalResult.OK
    assert (lease.asked_at, lease.trusted_until) == (began, began + 45)


# ── the rescue looks twice ──────────────────────────────────────────────────────────────────────────────────


def expire(db: Db) -> None:
    over = [{"$set": {"leaseExpiresAt": {"$subtract": ["$$NOW", 1000]}}}]
    db.runs.update_one({"_id": "a", "leaseToken": {"$exists": True}}, over)


def rescue_while(db: Db, meanwhile: Any) -> list[Any]:
    """A sweep, and what happens between its look and its write."""

    def first(_call: str) -> Loss:
        meanwhile()
        return Loss.NOTHING

    interrupted: Any = Unreliable(db, first)
    return Rescue(interrupted).sweep()


def test_a_lease_that_was_renewed_after_the_look_is_left_alone(db: Db) -> None:
    queue = RunQueue(db, SystemClock())
    queue.enqueue(RunRequest("a", "synthetic", {}))
    claim = claimed(queue)
    expire(db)
    in_time = [{"$set": {"leaseExpiresAt": {"$add": ["$$NOW", 60_000]}}}]

    assert rescue_while(db, lambda: db.runs.update_one({"_id": "a"}, in_time)) == []
    assert queue.renew(claim.lease)[0] is RenewalResult.OK


def test_a_rescue_ends_only_the_lease_that_it_looked_at(db: Db) -> None:
    """Else it would name one worker dead and take the run from another."""
    queue = RunQueue(db, SystemClock())
    queue.enqueue(RunRequest("a", "synthetic", {}))
    claimed(queue)
    expire(db)

    def somebody_else_is_faster() -> None:
        assert len(Rescue(db).sweep()) == 1
        claimed(queue)
        expire(db)

    assert rescue_while(db, somebody_else_is_faster) == []
    assert [each.run.attempt for each in Rescue(db).sweep()] == [2]
