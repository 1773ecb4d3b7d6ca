"""Concurrent workers, an operator and a rescuer on a real MongoDB: is there one order that explains it all?

The object is the model of `queue_model`, one run at a time. Requests and replies are lost beneath the queue, and
on the wire beneath the driver.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import PyMongoError
from pymongo.uri_parser import parse_uri

from pod_worker.core.clock import SystemClock
from pod_worker.core.failure import Failure, FailureCode
from pod_worker.core.lease import Lease
from pod_worker.core.outcome import Canceled, Failed, Outcome, Released, Succeeded
from pod_worker.core.run import Checkpoint
from pod_worker.local.mongod import Mongod
from pod_worker.store.mongo import ensure_indexes
from pod_worker.store.queue.operations import OperatorActions
from pod_worker.store.queue.rescue import Rescue
from pod_worker.store.queue.run_queue import INDEXES, ClaimingWorker, RunQueue, RunRequest
from tests.store.flaky_link import LOOPBACK, FlakyLink
from tests.store.linearizability import UNKNOWN, Call, Recorder, explain
from tests.store.queue_model import Hold, ModelRun, QueueModel
from tests.store.unreliable import Loss, Unreliable

Db = Database[dict[str, Any]]
# Failures that come back at once, so that no history has to wait.
OUTCOMES: list[Outcome] = [Succeeded(), Released("drain"), Released("drain"), Canceled()]
OUTCOMES += [Failed(Failure(code, "broke")) for code in (FailureCode.PREEMPTED, FailureCode.USER_ERROR)]


# ── the object ──────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class State:
    """One run as the model has it, comparable."""

    run: ModelRun

    def _key(self) -> tuple[Any, ...]:
        run = self.run
        lease = run.token, run.is_expired, run.is_cancel_requested, run.wait, run.held
        return run.status, run.attempt, lease, run.retries, run.crashes, run.settled

    def __eq__(self, other: object) -> bool:
        return isinstance(other, State) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())


def step(state: State, call: Call) -> State | None:
    """The run after the call; None where it could not have answered so."""
    model = QueueModel()
    run = model.runs[state.run.id] = replace(state.run, checkpoints={})
    answer = _answer(model, run, call)
    return State(run) if call.result is UNKNOWN or answer == call.result else None


def _answer(model: QueueModel, run: ModelRun, call: Call) -> Any:
    match call.what, call.words:
        case "claim", ():
            if run not in model.claimable():
                return None
            # The token of a claim without a reply is unknown too.
            token = f"of {call.began}" if call.result in (UNKNOWN, None) else call.result[1]
            model.claim(run.id, token)
            return run.attempt, token
        case "renew", (hold,):
            return model.renew(hold)
        case "start", (hold,):
            return model.start(hold)
        case "checkpoint", (hold,):
            return model.checkpoint(hold, "Stage_1", False)
        case "settle", (hold, outcome):
            return model.settle(hold, outcome)
        case "expire", ():
            run.held = "past" if run.held else ""
            return model.expire(run.id)
        case "rescue", ():
            return bool(model.rescue())
        case "cancel", ():
            return model.cancel(run.id)
        case "reset", (force,):
            return model.reset(run.id, force, False)
        case "retry stage", ():
            return model.retry_stage(run.id, "Stage_1")
    raise AssertionError(call.what)


# ── the searcher itself ─────────────────────────────────────────────────────────────────────────────────────


def register(state: int, call: Call) -> int | None:
    if call.what == "write":
        return int(call.words[0])
    return state if call.result in (UNKNOWN, state) else None


def write(value: int, began: int, ended: int | None) -> Call:
    return Call("p", "write", (value,), None if ended else UNKNOWN, began, ended)


def read(value: int, began: int, ended: int) -> Call:
    return Call("q", "read", (), value, began, ended)


@pytest.mark.parametrize(
    ("history", "is_explained"),
    [
        ([write(1, 1, 2), read(1, 3, 4)], True),
        ([write(1, 1, 2), read(0, 3, 4)], False),  # stale
        ([write(1, 1, 4), read(0, 2, 3)], True),  # at the same time: either
        ([write(1, 1, 6), read(1, 2, 3), read(0, 4, 5)], False),  # seen, and then not
        ([write(1, 1, None), read(0, 2, 3), read(1, 4, 5)], True),  # an unknown write comes late
        ([write(1, 1, None), read(0, 2, 3)], True),  # or never
        ([write(1, 1, None), read(1, 2, 3), read(0, 4, 5)], False),  # but not away again
        ([write(1, 1, 8), write(2, 2, 7), read(2, 3, 4), read(1, 5, 6)], True),
        ([write(1, 1, 4), write(2, 2, 3), read(2, 5, 6), read(1, 7, 8)], False),
    ],
)
def test_the_search_tells_what_can_be_explained(history: list[Call], is_explained: bool) -> None:
    assert (explain(history, 0, register).order is not None) is is_explained


# ── many hands on few runs ──────────────────────────────────────────────────────────────────────────────────


class Hand:
    """A thread that does random things to the runs and writes down what it saw."""

    def __init__(
        self,
        name: str,
        database: Db,
        runs: list[str],
        recorder: Recorder,
        seed: int,
        losses: Callable[[], int | None] = lambda: 0,
    ) -> None:
        """`losses`: how many requests of this worker were lost; None where that is unknown."""
        self.name, self.runs, self.recorder, self.losses = name, runs, recorder, losses
        self.rng = random.Random(seed)
        self.queue = RunQueue(database, SystemClock(), rng=self.rng)
        self.rescuer = Rescue(database)
        self.operations = OperatorActions(database)
        self.leases: list[Lease] = []
        self.errors: list[BaseException] = []

    def work(self, do: Callable[[], object], until: Callable[[int], bool]) -> None:
        number = 0
        try:
            while not until(number):
                do()
                number += 1
        except BaseException as error:
            self.errors.append(error)

    # A worker.

    def do_work(self) -> None:
        if not self.leases or self.rng.random() < 0.35:
            self._claim(self.rng.choice(self.runs))
            return
        # Mostly the newest lease, sometimes one that should be long over.
        lease = self.leases[-1] if self.rng.random() < 0.7 else self.rng.choice(self.leases)
        self.rng.choice([self._renew, self._start, self._checkpoint, self._settle, self._settle])(lease)

    def _record(self, run_id: str, what: str, words: tuple[Any, ...], do: Callable[[], Any]) -> Any:
        return self.recorder.record(run_id, self.name, what, words, do, PyMongoError)

    def _claim(self, run_id: str) -> None:
        began, losses = self.recorder.tick(), self.losses()
        try:
            claimed = self.queue.claim(ClaimingWorker(self.name, "pod", ("synthetic",), ("synthetic",)), run_id)
        except PyMongoError:
            self.recorder.add(run_id, Call(self.name, "claim", (), UNKNOWN, began, None))
            return
        if claimed is not None:
            self.leases.append(claimed.lease)
            result = claimed.run.attempt, claimed.lease.fence.token
            self.recorder.add(run_id, Call(self.name, "claim", (), result, began, self.recorder.tick()))
        elif losses is None or losses != self.losses():
            # An answer was lost: the claim may have happened and been ended (by a reset, a rescue) before it
            # was looked up, or the look-up may have come before the claim itself.
            self.recorder.add(run_id, Call(self.name, "claim", (), UNKNOWN, began, None))
        else:
            self.recorder.add(run_id, Call(self.name, "claim", (), None, began, self.recorder.tick()))

    def _renew(self, lease: Lease) -> None:
        hold = _hold(lease)
        self._record(hold.run_id, "renew", (hold,), lambda: self.queue.renew(lease)[0])

    def _start(self, lease: Lease) -> None:
        hold = _hold(lease)
        self._record(hold.run_id, "start", (hold,), lambda: self.queue.start(lease.fence))

    def _checkpoint(self, lease: Lease) -> None:
        hold, made = _hold(lease), Checkpoint("Stage_1", False)
        self._record(hold.run_id, "checkpoint", (hold,), lambda: self.queue.checkpoint(lease.fence, made))

    def _settle(self, lease: Lease) -> None:
        hold, outcome = _hold(lease), self.rng.choice(OUTCOMES)

        def settle() -> Any:
            settlement = self.queue.settle(lease.fence, outcome)
            return settlement.status if settlement else None

        for _ in range(3):  # again after an unknown outcome, as a supervisor does
            if self._record(hold.run_id, "settle", (hold, outcome), settle) is not UNKNOWN:
                return

    # Everybody else.

    def do_operate(self) -> None:
        run_id, force = self.rng.choice(self.runs), self.rng.random() < 0.5
        match self.rng.choice(["cancel", "reset", "reset", "retry stage", "expire", "expire", "expire", "rescue"]):
            case "cancel":
                self._record(run_id, "cancel", (), lambda: self.operations.cancel(run_id).verdict)
            case "reset":
                self._record(run_id, "reset", (force,), lambda: self.operations.reset(run_id, force=force).verdict)
            case "retry stage":
                self._record(
                    run_id, "retry stage", (), lambda: self.operations.retry_stage(run_id, "Stage_1").verdict
                )
            case "expire":
                self._record(run_id, "expire", (), lambda: self._expire(run_id))
            case _:
                self._rescue()

    def _expire(self, run_id: str) -> None:
        """Time passes: a lease is over, and so is the wait for one that was taken by force."""

        def past(field: str) -> dict[str, Any]:
            return {"$cond": [{"$eq": [{"$type": f"${field}"}, "date"]}, long_ago, f"${field}"]}

        long_ago = {"$subtract": ["$$NOW", 3_600_000]}
        fields = {name: past(name) for name in ("leaseExpiresAt", "heldUntil")}
        self.operations._runs.update_one({"_id": run_id}, [{"$set": fields}])

    def _rescue(self) -> None:
        """One sweep is one call on every run."""
        began = self.recorder.tick()
        try:
            rescued: set[str] | None = {each.run.id for each in self.rescuer.sweep()}
        except PyMongoError:
            rescued = None
        ended = self.recorder.tick()
        for run_id in self.runs:
            known = rescued is not None
            result = run_id in rescued if rescued is not None else UNKNOWN
            self.recorder.add(run_id, Call(self.name, "rescue", (), result, began, ended if known else None))


def _hold(lease: Lease) -> Hold:
    return Hold(lease.fence.run_id, lease.fence.attempt, lease.fence.token)


def run_all(hands: list[tuple[Hand, Callable[[], object]]], until: Callable[[int], bool]) -> None:
    threads = [threading.Thread(target=hand.work, args=(do, until), name=hand.name) for hand, do in hands]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for hand, _ in hands:
        if hand.errors:
            raise hand.errors[0]


def check(recorder: Recorder) -> dict[str, int]:
    """Every run's history has an explanation; returns how many calls of each kind there were."""
    counts: dict[str, int] = {}
    for run_id, history in recorder.histories.items():
        found = explain(history, State(ModelRun(run_id, "synthetic", 1, max_attempts=3)), step)
        assert found.order is not None, f"run {run_id}: {found}"
        for call in history:
            known = "unknown " if call.result is UNKNOWN else ""
            counts[known + call.what] = counts.get(known + call.what, 0) + 1
    return counts


def enqueue(database: Db, runs: list[str]) -> None:
    ensure_indexes(database, INDEXES)
    queue = RunQueue(database, SystemClock())
    for run_id in runs:
        queue.enqueue(RunRequest(run_id, "synthetic", {}, max_attempts=3))


@pytest.mark.slow
def test_what_threads_see_has_one_order_even_when_replies_are_lost(db: Db) -> None:
    """Every call to the database may come late, be lost, or be done without a word."""
    rounds, runs_each, hands_each, calls_each = 14, 2, 3, 40
    totals: dict[str, int] = {}
    for number in range(rounds):
        runs = [f"r{number}-{run}" for run in range(runs_each)]
        enqueue(db, runs)
        recorder = Recorder()
        hands: list[tuple[Hand, Callable[[], object]]] = []
        for place in range(hands_each):
            hands.append(_lossy_worker(db, runs, recorder, number * 10 + place))
        slow = Unreliable(db, lambda _call: Loss.NOTHING, _dawdling(random.Random(number)))
        operator = Hand("ana", slow, runs, recorder, number * 10 + 9)  # type: ignore[arg-type]
        hands.append((operator, operator.do_operate))
        run_all(hands, lambda done: done >= calls_each)
        for what, count in check(recorder).items():
            totals[what] = totals.get(what, 0) + count
    assert totals["unknown settle"] > 5
    assert totals["claim"] > 100


def _lossy_worker(db: Db, runs: list[str], recorder: Recorder, seed: int) -> tuple[Hand, Callable[[], object]]:
    rng = random.Random(seed)
    weather = Weather(rng)
    lossy: Any = Unreliable(db, weather.fate, _dawdling(rng))
    worker = Hand(f"w{seed}", lossy, runs, recorder, seed, lambda: weather.lost)
    return worker, worker.do_work


class Weather:
    """Loses a tenth of all writes before the server sees them, and the answers of another tenth."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.lost = 0

    def fate(self, _call: str) -> Loss:
        loss = self.rng.choices([Loss.NOTHING, Loss.REQUEST, Loss.REPLY], [8, 1, 1])[0]
        self.lost += loss is not Loss.NOTHING
        return loss


def _dawdling(rng: random.Random) -> Callable[[], None]:
    """Sometimes a pause between two questions of one verb: that is where another thread gets in."""

    def dawdle() -> None:
        if rng.random() < 0.3:
            time.sleep(rng.uniform(0, 0.004))

    return dawdle


@contextmanager
def flaky_database(mongod: Mongod, name: str, seed: int, *, retries: bool) -> Iterator[tuple[Db, FlakyLink]]:
    port = parse_uri(mongod.url)["nodelist"][0][1]
    link = FlakyLink(port, 0.25 if retries else 0.1, random.Random(seed))
    client: MongoClient[dict[str, Any]] = MongoClient(
        LOOPBACK, link.port, directConnection=True, tz_aware=True, retryWrites=retries, retryReads=retries
    )
    try:
        yield client[name], link
    finally:
        client.close()
        link.close()


@pytest.mark.slow
def test_what_workers_see_through_dying_connections_has_one_order(db: Db, mongod: Mongod) -> None:
    """One worker as in production, whose driver retries a write, and one whose driver does not."""
    runs = [f"r{number}" for number in range(6)]
    enqueue(db, runs)
    recorder = Recorder()
    end = time.monotonic() + 5
    with (
        flaky_database(mongod, db.name, 1, retries=True) as (first, first_link),
        flaky_database(mongod, db.name, 2, retries=False) as (second, second_link),
    ):
        workers = [
            Hand(name, database, runs, recorder, seed, lambda: None)
            for seed, (name, database) in enumerate([("again", first), ("once", second)])
        ]
        operator = Hand("ana", db, runs, recorder, 7)
        hands: list[tuple[Hand, Callable[[], object]]] = [(worker, worker.do_work) for worker in workers]

        def operate() -> None:
            time.sleep(0.03)
            operator.do_operate()

        run_all([*hands, (operator, operate)], lambda _: time.monotonic() > end)
    counts = check(recorder)
    assert first_link.requests_lost + second_link.requests_lost > 3
    assert first_link.replies_lost + second_link.replies_lost > 3
    assert sum(count for what, count in counts.items() if what.startswith("unknown")) > 3
