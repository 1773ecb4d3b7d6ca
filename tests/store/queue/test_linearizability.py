"""Concurrent workers, an operator and a rescuer on a real MongoDB: is there one order that explains it all?

The object is the model of `queue_model`, one run at a time, or one run with those that wait for it. Requests and replies are lost beneath the queue, and
on the wire beneath the driver.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.uri_parser import parse_uri

from pod_worker.core.clock import SystemClock
from pod_worker.core.failure import Failure, FailureCode
from pod_worker.core.lease import Lease, RenewalResult
from pod_worker.core.outcome import Canceled, Failed, Outcome, Released, Succeeded
from pod_worker.core.run import ENDED_WELL, TERMINAL, AfterFailure, Checkpoint, RunStatus
from pod_worker.local.mongod import Mongod
from pod_worker.store.mongo import ensure_indexes
from pod_worker.store.queue.operations import ActionOutcome, ActionResult, OperatorActions
from pod_worker.store.queue.rescue import Rescue
from pod_worker.store.queue.run_edits import RunEdit, RunEdits
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
    """Runs as the model has them, comparable, and what calls in progress have seen of them."""

    runs: tuple[ModelRun, ...]
    seen: frozenset[tuple[int, str, Any]] = frozenset()  # (number of the call, what, result)

    def _key(self) -> tuple[Any, ...]:
        return tuple(map(_comparable, self.runs)), self.seen

    def __eq__(self, other: object) -> bool:
        return isinstance(other, State) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())


def _comparable(run: ModelRun) -> tuple[Any, ...]:
    lease = run.token, run.is_expired, run.is_cancel_requested, run.wait, run.held
    waiting = run.blocked_by, run.start_by
    return run.status, run.attempt, lease, waiting, run.retries, run.crashes, run.settled


def step(state: State, call: Call) -> State | None:
    """The runs after the call; None where they could not have answered so."""
    model = QueueModel()
    model.runs = {run.id: replace(run, checkpoints={}) for run in state.runs}
    run_id, *words = call.words
    if call.what in SEEN_FIRST:
        return _after_part(state, model, run_id, call)
    answer = _answer(model, model.runs[run_id], call, tuple(words))
    is_possible = call.result is UNKNOWN or answer == call.result
    return replace(state, runs=tuple(model.runs.values())) if is_possible else None


READS: dict[str, frozenset[Any]] = {
    "claim": frozenset({None}),
    "renew": frozenset(RenewalResult),
    "start": frozenset({False}),
    "checkpoint": frozenset({False}),
    "settle": frozenset({None}),
    "cancel": frozenset({ActionResult.ALREADY}),
    "reset": frozenset({ActionResult.ALREADY, ActionResult.LIVE}),
    "retry": frozenset({ActionResult.ALREADY, ActionResult.LIVE}),
    "set priority": frozenset(ActionResult),
    "rescue": frozenset({False}),
}


def is_read(call: Call) -> bool:
    return call.result in READS.get(call.what, ())


# Verbs that look at other runs before they write: each part is a call of its own, in this order.
SEEN_FIRST = {"find": None, "read": "find", "follow": "read", "see going": None, "requeue": "see going"}


def _after_part(state: State, model: QueueModel, run_id: str, call: Call) -> State | None:
    number, *words = call.words[1:]
    before = [each for each in state.seen if each[:2] == (number, SEEN_FIRST[call.what])]
    if SEEN_FIRST[call.what] and not before:
        return None
    found = before[0][2] if before else None
    run = model.runs[run_id]
    is_waiting = run.status is RunStatus.QUEUED and bool(run.blocked_by)
    result: Any = None
    match call.what:
        case "find":
            result = is_waiting
        case "read":
            result = model.verdict(replace(run, blocked_by=run.after)) if found else ""
        case "see going":
            result = frozenset(model.going())
        case "follow":
            model.follow(run, found if is_waiting else "")
        case "requeue":
            verb, force = words
            reset = verb == "reset"
            answer = model.reset(run_id, force, False, found) if reset else model.retry_stage(run_id, "x", found)
            if call.result is not UNKNOWN and answer != call.result:
                return None
    is_last = call.what in ("follow", "requeue")
    seen = state.seen - set(before) | (set() if is_last else {(number, call.what, result)})
    return State(tuple(model.runs.values()), seen)


def _answer(model: QueueModel, run: ModelRun, call: Call, words: tuple[Any, ...]) -> Any:
    match call.what, words:
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
            run.start_by = "past" if run.start_by else ""
            return model.expire(run.id)
        case "end overdue", ():
            return model.end_overdue([run.id])
        case "rescue", ():
            return model.rescue([run.id]) != set()
        case "reset", (force,):
            return model.reset(run.id, force, False)
        case "retry", _:
            return model.retry_stage(run.id, "Stage_1")
        case "set priority", (priority,):
            return model.set_priority(run.id, priority)
        case "cancel", ():
            return model.cancel(run.id)
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


@pytest.mark.parametrize("is_read", [lambda _call: False, lambda call: call.what == "read"])
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
def test_the_search_tells_what_can_be_explained(
    history: list[Call], is_explained: bool, is_read: Callable[[Call], bool]
) -> None:
    assert (explain(history, 0, register, is_read).order is not None) is is_explained


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
        after: Mapping[str, str] | None = None,
    ) -> None:
        """`losses`: how many requests of this worker were lost; None where that is unknown.

        `after`: which run waits for which one; the two are one object.
        """
        self.name, self.runs, self.recorder, self.losses = name, runs, recorder, losses
        self.after = after or {}
        self.rng = random.Random(seed)
        self.queue = RunQueue(database, SystemClock(), rng=self.rng)
        self.rescuer = Rescue(database)
        self.operations = OperatorActions(database)
        self.edits = RunEdits(database)
        for owner in (self.queue, self.rescuer):
            # A majority read may be behind a write that another thread has seen already.
            owner._dependencies._runs = owner._runs.with_options(read_concern=ReadConcern("local"))
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
        return self.recorder.record(self._object(run_id), self.name, what, (run_id, *words), do, PyMongoError)

    def _object(self, run_id: str) -> str:
        return self.after.get(run_id, run_id)

    def _add(
        self, run_id: str, what: str, words: tuple[Any, ...], result: Any, began: int, ended: int | None
    ) -> None:
        self.recorder.add(self._object(run_id), Call(self.name, what, (run_id, *words), result, began, ended))

    def _claim(self, run_id: str) -> None:
        began, losses = self.recorder.tick(), self.losses()
        try:
            claimed = self.queue.claim(ClaimingWorker(self.name, "pod", ("synthetic",), ("synthetic",)), run_id)
        except PyMongoError:
            self._add(run_id, "claim", (), UNKNOWN, began, None)
            return
        if claimed is not None:
            self.leases.append(claimed.lease)
            result = claimed.run.attempt, claimed.lease.fence.token
            self._add(run_id, "claim", (), result, began, self.recorder.tick())
        elif losses is None or losses != self.losses():
            # An answer was lost: the claim may have happened and been ended (by a reset, a rescue) before it
            # was looked up, or the look-up may have come before the claim itself.
            self._add(run_id, "claim", (), UNKNOWN, began, None)
        else:
            self._add(run_id, "claim", (), None, began, self.recorder.tick())

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
            began = self.recorder.tick()
            status = self._record(hold.run_id, "settle", (hold, outcome), settle)
            if status is UNKNOWN or status in TERMINAL | ENDED_WELL:
                self._add_release(hold.run_id, began, is_certain=status is not UNKNOWN)
            if status is not UNKNOWN:
                return

    def _add_release(self, run_id: str, began: int, *, is_certain: bool) -> None:
        """What an end, or a sweep, does for the runs that wait."""
        ended = self.recorder.tick() if is_certain else None
        for waiting in (name for name, other in self.after.items() if run_id in (name, other)):
            for what in ("find", "read", "follow"):
                self._add(waiting, what, (began,), UNKNOWN, began, ended)

    # Everybody else.

    def do_operate(self) -> None:
        run_id, force = self.rng.choice(self.runs), self.rng.random() < 0.5
        verbs = ["cancel", "reset", "reset", "retry stage", "expire", "expire", "expire", "rescue", "set priority"]
        match self.rng.choice(verbs):
            case "cancel":
                self._record(run_id, "cancel", (), lambda: self.operations.cancel(run_id).verdict)
            case "reset":
                self._requeue(run_id, ("reset", force), lambda: self.operations.reset(run_id, force=force))
            case "retry stage":
                self._requeue(run_id, ("retry", False), lambda: self.operations.retry_stage(run_id, "Stage_1"))
            case "set priority":
                edit = RunEdit(priority=self.rng.randrange(2))
                self._record(
                    run_id, "set priority", (edit.priority,), lambda: self.edits.apply(run_id, edit).verdict
                )
            case "expire":
                self._record(run_id, "expire", (), lambda: self._expire(run_id))
            case _:
                self._rescue()

    def _requeue(self, run_id: str, words: tuple[str, bool], act: Callable[[], ActionOutcome]) -> None:
        if run_id not in self.after:
            self._record(run_id, words[0], words[1:], lambda: act().verdict)
            return
        began = self.recorder.tick()
        result = self._record(run_id, "requeue", (began, *words), lambda: act().verdict)
        self._add(
            run_id, "see going", (began,), UNKNOWN, began, None if result is UNKNOWN else self.recorder.tick()
        )

    def _expire(self, run_id: str) -> None:
        """Time passes: a lease is over, the wait for one that was taken by force, and the time to start."""

        def past(field: str) -> dict[str, Any]:
            return {"$cond": [{"$eq": [{"$type": f"${field}"}, "date"]}, long_ago, f"${field}"]}

        long_ago = {"$subtract": ["$$NOW", 3_600_000]}
        fields = {name: past(name) for name in ("leaseExpiresAt", "heldUntil", "startBy")}
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
            if run_id in self.after:
                self._add(run_id, "end overdue", (), UNKNOWN, began, ended if known else None)
                self._add_release(run_id, began, is_certain=known)
            self._add(run_id, "rescue", (), result, began, ended if known else None)


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


def check(recorder: Recorder, waiting: Mapping[str, Sequence[ModelRun]] | None = None) -> dict[str, int]:
    """Every object's history has an explanation; returns how many calls of each kind there were."""
    counts: dict[str, int] = {}
    for run_id, history in recorder.histories.items():
        runs = (ModelRun(run_id, "synthetic", 1, max_attempts=3), *(waiting or {}).get(run_id, ()))
        found = explain(history, State(runs), step, is_read)
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


@pytest.mark.slow
def test_a_run_and_the_one_that_waits_for_it_have_one_order(db: Db) -> None:
    rounds, hands_each, calls_each = 6, 2, 30
    totals: dict[str, int] = {}
    claims = 0
    for number in range(rounds):
        first, second = f"r{number}", f"r{number}-waits"
        fields: dict[str, Any] = {
            "after": (first,),
            "after_failure": AfterFailure.SKIP if number % 2 else AfterFailure.FAIL,
            "retry_on": ("error",) if number % 3 else None,
        }
        enqueue(db, [first])
        request = RunRequest(second, "synthetic", {}, max_attempts=3, max_queue_seconds=3600, **fields)
        RunQueue(db, SystemClock()).enqueue(request)
        recorder = Recorder()
        hands: list[tuple[Hand, Callable[[], object]]] = []
        for place in range(hands_each + 1):
            seed = number * 10 + place
            slow: Any = Unreliable(db, lambda _call: Loss.NOTHING, _dawdling(random.Random(seed)))
            hand = Hand(f"h{place}", slow, [first, second], recorder, seed, after={second: first})
            hands.append((hand, hand.do_work if place else hand.do_operate))
        run_all(hands, lambda done: done >= calls_each)
        model = ModelRun(
            second, "synthetic", 2, max_attempts=3, blocked_by=(first,), has_max_queue_time=True, **fields
        )
        for what, count in check(recorder, {first: [model]}).items():
            totals[what] = totals.get(what, 0) + count
        calls = recorder.histories[first]
        claims += sum(call.what == "claim" and call.words[0] == second and bool(call.result) for call in calls)
    assert totals["requeue"]
    assert claims


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
