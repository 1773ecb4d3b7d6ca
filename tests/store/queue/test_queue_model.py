"""The queue on a real MongoDB against a model in memory, over every interleaving that hypothesis can think of.

Two workers, an operator, a rescuer and a bad network; leases that are stale, forged or repeated. After each call
the answer and the whole document must be what the model says, and the promises are checked on the documents
themselves, without asking the model.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import AutoReconnect
from pymongo.write_concern import WriteConcern

from pod_worker.core.clock import SystemClock
from pod_worker.core.failure import Failure, FailureCode
from pod_worker.core.lease import Fence, Lease, RenewalResult
from pod_worker.core.outcome import Canceled, Failed, Lost, Outcome, Released, Succeeded
from pod_worker.core.run import ENDED_WELL, TERMINAL, TRANSITIONS, AfterFailure, Checkpoint, RunStatus
from pod_worker.local.mongod import Mongod
from pod_worker.store.mongo import ensure_indexes
from pod_worker.store.queue.operations import ActionResult, OperatorActions
from pod_worker.store.queue.rescue import Rescue
from pod_worker.store.queue.run_edits import RunEdit, RunEdits
from pod_worker.store.queue.run_queue import INDEXES, ClaimingWorker, RunQueue, RunRequest
from tests.store.queue_model import Hold, ModelRun, QueueModel
from tests.store.unreliable import Loss, Unreliable

Db = Database[dict[str, Any]]
QUEUES = ("synthetic", "training")
STAGES = ("Stage_1", "paper")
VERBS = ["cancel"] * 3 + ["reset", "reset by force", "reset from scratch", "retry stage", "rescue"] * 2
VERBS += ["hide", "show", "show", "pause", "resume", "resume", "set priority", "set priority"]
RETRY_ON = st.sampled_from([None, None, ("interruption",), ("error", "oom"), ("exit:3", "interruption"), ()])
LOSSES = st.sampled_from([Loss.NOTHING, Loss.NOTHING, Loss.NOTHING, Loss.REQUEST, Loss.REPLY])
OUTCOMES = st.sampled_from(
    [Succeeded(), Canceled(), Released("drain"), Lost("fenced")]
    + [
        Failed(Failure(code, "$broke"))
        for code in (
            FailureCode.USER_ERROR,
            FailureCode.HOST_OOM,
            FailureCode.STAGE_TIMEOUT,
            FailureCode.NETWORK,
            FailureCode.CRASHED_SIGNAL,
            FailureCode.CRASHED_SIGNAL,
            FailureCode.BUDGET_EXCEEDED,
            FailureCode.MAX_DURATION,
            FailureCode.CUDA_OOM,
        )
    ]
    + [Failed(Failure(FailureCode.USER_ERROR, "$broke", exit_code=code)) for code in (1, 3)]
)


class LongestWait(random.Random):
    """Full jitter at its far end, so that a wait is a wait."""

    def uniform(self, a: float, b: float) -> float:
        return b


class QueueMachine(RuleBasedStateMachine):
    database: Callable[[], Db]  # set by the test: one database for all examples

    leases = Bundle("leases")
    settled = Bundle("settled")
    runs = Bundle("runs")

    def __init__(self) -> None:
        super().__init__()
        self.db = type(self).database()
        for collection in ("runs", "queues"):
            self.db[collection].delete_many({})
        self.loss = Loss.NOTHING
        self.is_disturbed = False
        lossy: Any = Unreliable(self.db, self._fate)
        self.queues = {worker: RunQueue(lossy, SystemClock(), rng=LongestWait(1)) for worker in ("w1", "w2")}
        self.queue = self.queues["w1"]  # a lease may be used through any connection
        self.rescuer = Rescue(self.db)
        owners: list[Any] = [*self.queues.values(), self.rescuer]
        for owner in owners:
            owner._dependencies._runs = self.db.runs  # a majority read lags behind writes without a journal
        self.operations = OperatorActions(self.db)
        self.model = QueueModel()
        self.before: dict[str, dict[str, Any]] = {}
        self.last: tuple[str, Hold | None] = ("", None)
        self._numbers = itertools.count(1)

    def _fate(self, _call: str) -> Loss:
        loss, self.loss = self.loss, Loss.NOTHING
        return loss

    # ── in ──────────────────────────────────────────────────────────────────────────────────────────────

    @initialize(target=runs)
    def a_run(self) -> str:
        return self._enqueue("synthetic", 0, 2)

    @rule(
        target=runs,
        queue=st.sampled_from(QUEUES),
        priority=st.integers(0, 1),
        attempts=st.integers(1, 3),
        waits_for=st.integers(0, 2),
        after_failure=st.sampled_from(AfterFailure),
        has_max_queue_time=st.booleans(),
        retry_on=RETRY_ON,
    )
    @precondition(lambda self: len(self.model.runs) < 4)
    def enqueue(self, queue: str, priority: int, attempts: int, waits_for: int, **fields: Any) -> str:
        after = tuple(list(self.model.runs)[len(self.model.runs) - waits_for :]) if waits_for else ()
        return self._enqueue(queue, priority, attempts, after=after, **fields)

    def _enqueue(
        self, queue: str, priority: int, attempts: int, has_max_queue_time: bool = False, **fields: Any
    ) -> str:
        run_id = f"r{next(self._numbers)}"
        self.last = ("enqueue", None)
        request = RunRequest(
            run_id,
            "synthetic",
            {"text": "$not a field"},
            queue=queue,
            priority=priority,
            max_attempts=attempts,
            max_queue_seconds=3600 if has_max_queue_time else None,
            max_duration_seconds=3600,
            **fields,
        )
        for _ in range(2):  # an enqueue whose reply was lost is sent again
            run, _ = self.queue.enqueue(request)
            assert run.status is RunStatus.QUEUED
        self.model.enqueue(run_id, queue, priority, attempts, has_max_queue_time=has_max_queue_time, **fields)
        return run_id

    # ── claims ──────────────────────────────────────────────────────────────────────────────────────────

    @rule(target=leases, loss=LOSSES)
    def claim_by_one(self, loss: Loss) -> Any:
        return self._claim("w1", loss)

    @rule(target=leases, loss=LOSSES)
    def claim_by_another(self, loss: Loss) -> Any:
        return self._claim("w2", loss)

    def _claim(self, worker: str, loss: Loss) -> Any:
        self.last, self.loss = ("claim", None), loss
        claimable = self.model.claimable()
        claim = self.queues[worker].claim(ClaimingWorker(worker, "pod", QUEUES, ("synthetic",)))
        self.is_disturbed |= loss is Loss.REQUEST
        self.loss = Loss.NOTHING
        if not self.is_disturbed:
            assert (claim.run.id if claim else None) == (claimable[0].id if claimable else None)
        elif claim is None:
            assert loss is Loss.REQUEST or not claimable
        else:  # a claimer after a lost race may look further ahead, and see a pause late
            assert claim.run.id in {run.id for run in self.model.claimable(paused=frozenset())}
        if claim is None:
            return multiple()
        fence = claim.lease.fence
        run = self.model.claim(fence.run_id, fence.token)
        assert (claim.run.attempt, claim.run.claimed_by) == (run.attempt, worker)
        assert fence.attempt == run.attempt
        return claim.lease

    # ── holders of a lease, former holders, forgers ───────────────────────────────────────────────────

    @rule(lease=leases, loss=LOSSES)
    def renew(self, lease: Lease, loss: Loss) -> None:
        hold = self._begin("renew", lease, loss)
        expected = self.model.renew(hold)
        for _ in range(2):
            try:
                verdict, renewed = self.queue.renew(lease)
            except AutoReconnect:
                continue
            assert verdict is expected
            assert (renewed is lease) == (verdict is RenewalResult.LOST)
            return
        raise AssertionError("a renewal cannot fail twice in a row here")

    @rule(lease=leases, loss=LOSSES)
    def start(self, lease: Lease, loss: Loss) -> None:
        hold = self._begin("start", lease, loss)
        expected = self.model.start(hold)
        assert self._repeated(lambda: self.queue.start(lease.fence)) is expected

    @rule(lease=leases, stage=st.sampled_from(STAGES), done=st.booleans(), loss=LOSSES)
    def checkpoint(self, lease: Lease, stage: str, done: bool, loss: Loss) -> None:
        hold = self._begin("checkpoint", lease, loss)
        expected = self.model.checkpoint(hold, stage, done)
        made = Checkpoint(stage, done, {"$loss": "$1"}, lease.fence.attempt)
        assert self._repeated(lambda: self.queue.checkpoint(lease.fence, made)) is expected

    @rule(target=settled, lease=leases, outcome=OUTCOMES, loss=LOSSES)
    def settle(self, lease: Lease, outcome: Outcome, loss: Loss) -> Lease:
        hold = self._begin("settle", lease, loss)
        expected = self.model.settle(hold, outcome)
        if expected in TERMINAL | ENDED_WELL:
            self.model.advance({hold.run_id})
        settlement = self._repeated(lambda: self.queue.settle(lease.fence, outcome))
        assert (settlement.status if settlement else None) is expected
        return lease

    @rule(lease=settled, outcome=OUTCOMES)
    def settle_once_more(self, lease: Lease, outcome: Outcome) -> None:
        """After an unknown outcome, however much has happened since."""
        self.settle(lease, outcome, Loss.NOTHING)

    @rule(lease=leases, other=runs, kind=st.sampled_from(["attempt", "token", "run"]), outcome=OUTCOMES)
    def forge(self, lease: Lease, other: str, kind: str, outcome: Outcome) -> None:
        """Two of the three parts of a fence are right."""
        fence = lease.fence
        forged = {
            "attempt": Fence(fence.run_id, fence.attempt + 1, fence.token),
            "token": Fence(fence.run_id, fence.attempt, fence.token[::-1] + "0"),
            "run": Fence(other if other != fence.run_id else "absent", fence.attempt, fence.token),
        }[kind]
        self.last = ("forge", None)
        assert self.queue.renew(Lease(forged, 60, 15, 0.0))[0] is RenewalResult.LOST
        assert not self.queue.start(forged)
        assert not self.queue.checkpoint(forged, Checkpoint("Stage_1", True))
        if kind != "attempt":  # a token is never given twice: its holder did settle
            assert self.queue.settle(forged, outcome) is None

    # ── time, rescue, operators ─────────────────────────────────────────────────────────────────────────
    # One rule for all that an operator may do: hypothesis picks rules evenly, and workers work more than that.

    @rule(run_id=runs, is_rescued=st.booleans())
    def the_lease_ends(self, run_id: str, is_rescued: bool) -> None:
        self.last = ("expire", None)
        self.model.expire(run_id)
        self.db.runs.update_one(
            {"_id": run_id, "leaseExpiresAt": {"$type": "date"}},
            [{"$set": {"leaseExpiresAt": {"$subtract": ["$$NOW", 3_600_000]}}}],
        )
        if is_rescued:
            self._rescue()

    def _rescue(self) -> None:
        self.last = ("rescue", None)
        expected = self.model.sweep()
        assert {rescued.run.id for rescued in self.rescuer.sweep()} == expected

    @rule(run_id=runs)
    def the_wait_ends(self, run_id: str) -> None:
        self.last = ("wait", None)
        run = self.model.runs[run_id]
        run.wait, run.held = "past" if run.wait else "", "past" if run.held else ""
        run.start_by = "past" if run.start_by else ""
        for name in ("runAfter", "heldUntil", "startBy"):
            self.db.runs.update_one(
                {"_id": run_id, name: {"$type": "date"}},
                [{"$set": {name: {"$subtract": ["$$NOW", 3_600_000]}}}],
            )

    @rule(run_id=runs, verb=st.sampled_from(VERBS), stage=st.sampled_from(STAGES))
    def operate(self, run_id: str, verb: str, stage: str) -> None:
        self.last = (verb, None)
        match verb:
            case "cancel":
                expected = self.model.cancel(run_id)
                assert self.operations.cancel(run_id, by="ana", reason="$why").verdict is expected
            case "reset" | "reset by force" | "reset from scratch":
                force, fresh = verb == "reset by force", verb == "reset from scratch"
                expected = self.model.reset(run_id, force, fresh)
                answer = self.operations.reset(run_id, by="ana", force=force, from_scratch=fresh)
                assert answer.verdict is expected
            case "retry stage":
                expected = self.model.retry_stage(run_id, stage)
                assert self.operations.retry_stage(run_id, stage).verdict is expected
            case "rescue":
                self._rescue()
            case "set priority":
                expected = self.model.set_priority(run_id, 1)
                assert RunEdits(self.db).apply(run_id, RunEdit(priority=1)).verdict is expected
            case "hide" | "show":
                self.model.runs[run_id].is_hidden = verb == "hide"
                assert self.operations.hide(run_id, verb == "hide").verdict is ActionResult.DONE
            case "pause":
                self.model.paused.add(self.model.runs[run_id].queue)
                self.operations.pause(self.model.runs[run_id].queue)
            case "resume":
                self.model.paused.discard(self.model.runs[run_id].queue)
                self.operations.resume(self.model.runs[run_id].queue)

    # ── after every call ────────────────────────────────────────────────────────────────────────────────

    @invariant()
    def the_documents_are_what_the_model_says_and_no_promise_is_broken(self) -> None:
        self.model.check()
        documents = {str(each["_id"]): each for each in self.db.runs.find()}
        assert documents.keys() == self.model.runs.keys()
        for run_id, document in documents.items():
            assert shown(document) == expected(self.model.runs[run_id]), f"after {self.last[0]}"
            # The line is by the server's clock, which may step back.
            self.model.runs[run_id].place = document["queuedAt"].timestamp()
            if run_id in self.before:
                self._check_promises(self.before[run_id], document)
        self.before = documents

    def _check_promises(self, before: dict[str, Any], after: dict[str, Any]) -> None:
        """Without the model: from one document to the next."""
        what, hold = self.last
        assert after["attempt"] >= before["attempt"], "an attempt went back"
        old, new = RunStatus(before["status"]), RunStatus(after["status"])
        if old is not new and not (new is RunStatus.QUEUED and what.startswith(("reset", "retry"))):
            assert new in TRANSITIONS[old], f"{what} took a run from {old} to {new}"
        if new is not RunStatus.QUEUED:
            assert after.keys().isdisjoint({"blockedBy", "startBy"}), f"{what} left the run in a sweep's index"
        is_advanced = what == "settle" and bool(before.get("blockedBy"))  # it waited for the run that ended
        if before != after and hold is not None and not is_advanced:
            holder = (before["_id"], before["attempt"], before.get("leaseToken"))
            assert (hold.run_id, hold.attempt, hold.token) == holder, f"a stale {what} was accepted"
        is_new_holder = after.get("leaseToken") not in (None, before.get("leaseToken"))
        if is_new_holder:
            assert "leaseToken" not in before, "a run was taken from a holder without a rescue or a reset"
            assert after["attempt"] == before["attempt"] + 1
        is_let_go = "leaseToken" in before and "leaseToken" not in after
        if is_let_go and before.get("cancelRequestedAt") and not what.startswith("reset"):
            assert after["status"] in ("CANCELED", "COMPLETED"), f"{what} forgot the cancel"

    def teardown(self) -> None:
        """A cancel always ends, whatever came before it."""
        if not self.model.runs:
            return
        for run_id in self.model.runs:
            self.operations.cancel(run_id)
            self.the_lease_ends(run_id, is_rescued=True)
        assert {each["status"] for each in self.db.runs.find()} <= {each.value for each in TERMINAL}

    # ── small parts ─────────────────────────────────────────────────────────────────────────────────────

    def _begin(self, what: str, lease: Lease, loss: Loss) -> Hold:
        fence = lease.fence
        hold = Hold(fence.run_id, fence.attempt, fence.token)
        self.last, self.loss = (what, hold), loss
        return hold

    def _repeated(self, call: Any) -> Any:
        """As the supervisor does: again after an unknown outcome."""
        try:
            return call()
        except AutoReconnect:
            return call()
        finally:
            self.loss = Loss.NOTHING


def shown(document: dict[str, Any]) -> dict[str, Any]:
    return {
        "status": document["status"],
        "attempt": document["attempt"],
        "token": document.get("leaseToken"),
        "has_lease": "leaseExpiresAt" in document,
        "cancel": document.get("cancelRequestedAt") is not None and "leaseToken" in document,
        "retries": document["retryCount"],
        "crashes": document["crashCount"],
        "waits": "runAfter" in document and document["status"] == "QUEUED",
        "hidden": document.get("hidden", False),
        "checkpoints": {stage: entry["done"] for stage, entry in document["checkpoints"].items()},
        "error": document.get("errorCode"),
        "blocked_by": document.get("blockedBy", []),
        "has_deadline": "startBy" in document,
        "priority": document["priority"],
    }


def expected(run: ModelRun) -> dict[str, Any]:
    return {
        "status": run.status.value,
        "attempt": run.attempt,
        "token": run.token,
        "has_lease": run.is_held,
        "cancel": run.is_cancel_requested and run.is_held,
        "retries": run.retries,
        "crashes": run.crashes,
        "waits": run.wait != "" and run.status is RunStatus.QUEUED,
        "hidden": run.is_hidden,
        "checkpoints": run.checkpoints,
        "error": run.error,
        "blocked_by": list(run.blocked_by),
        "has_deadline": run.start_by != "",
        "priority": run.priority,
    }


@pytest.fixture(scope="module")
def machine(mongod: Mongod, mongo_client: MongoClient[dict[str, Any]]) -> type[QueueMachine]:
    # Nothing here is about durability: no write waits for the disk, so there is time for more examples.
    database = mongo_client.get_database(f"test_model_{os.getpid()}", write_concern=WriteConcern(w=1, j=False))
    ensure_indexes(database, INDEXES)
    # A function around it: hypothesis looks at every attribute, and a database has one of any name.
    return type("BoundMachine", (QueueMachine,), {"database": staticmethod(lambda: database)})


@pytest.mark.slow
def test_the_queue_does_what_the_model_says(machine: type[QueueMachine]) -> None:
    profile = settings()  # "deep" has thousands of examples
    run_machine(
        machine,
        settings=settings(
            max_examples=max(profile.max_examples * 2 // 5, 1),
            stateful_step_count=40 if profile.max_examples <= 100 else 80,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
