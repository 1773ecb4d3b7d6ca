"""All orders of short histories, and long random ones over three attempts: late, repeated, across claims and resets.

Many runs live through their orders at the same time, one event of each in a batch, so that every order is tried on
a real database in seconds. `test_projections` says what the view should be; here all must be the same.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import json_util

from pod_worker.control.events.decoding import payload_of
from pod_worker.control.events.incoming import IncomingEvent
from pod_worker.control.events.replay import rebuild
from pod_worker.control.ingest.batch import batch_from_events
from pod_worker.control.ingest.service import Ingest
from pod_worker.control.metrics import ControlPlaneMetrics
from pod_worker.core.clock import SystemClock
from pod_worker.core.event import Event
from pod_worker.store.queue.stats import QueueStats
from pod_worker.store.views.metric_series import MetricSeries

SentEvent = tuple[int | None, int, str, dict[str, Any]]  # attempt, number within it, type, data
T0 = datetime(2026, 1, 1, tzinfo=UTC)
ROWS = ("stages", "validations", "artifacts")


def arrival(run_id: str, sent: SentEvent) -> IncomingEvent:
    attempt, number, kind, data = sent
    body = {"run_id": run_id, **data}
    seq = number if attempt is not None else None
    at = T0 + timedelta(hours=attempt or 0, seconds=number)
    event_id = f"{run_id}-{attempt}-{number:04d}"
    event = Event(event_id, "test://x", f"ai.{kind}", f"run/{run_id}", at, body, seq, attempt)
    return IncomingEvent(event, payload_of(event.type, body), run_id)


class ManyRuns:
    """A database that takes the events of many runs at once."""

    def __init__(self, database: Any) -> None:
        self.database = database
        self._loop = asyncio.Runner()
        self._ingest = Ingest(database, SystemClock(), ControlPlaneMetrics(QueueStats))

    def close(self) -> None:
        self._loop.run(self._ingest.close())
        self._loop.close()

    def add(self, run_ids: Sequence[str], document: dict[str, Any]) -> None:
        self.database["runs"].insert_many([{"_id": run_id} | document for run_id in run_ids])

    def ingest(self, arrivals: Sequence[IncomingEvent]) -> None:
        for start in range(0, len(arrivals), 1000):
            self._loop.run(self._ingest.ingest([batch_from_events(arrivals[start : start + 1000])]))
        assert self._ingest.projector.wait_until_projected(seconds=120)

    def views(self) -> dict[str, str]:
        """Everything that people see of each run, as text in which its name does not occur."""
        found: dict[str, dict[str, Any]] = {}
        for run in self.database["runs"].find():
            found[run["_id"]] = {"run": run} | {name: [] for name in ROWS}
        for name in ROWS:
            for row in self.database[name].find().sort("_id", 1):
                found[row["runId"]][name].append(row)
        for run_id in {each["runId"] for each in self.database["metrics"].find({}, {"runId": 1})}:
            found[run_id]["metrics"] = repr(MetricSeries(self.database).read(run_id))
        return {
            run_id: json_util.dumps(rows, sort_keys=True).replace(run_id, "RUN") for run_id, rows in found.items()
        }


@pytest.fixture
def many_runs(store: Any) -> Iterator[ManyRuns]:
    stage = ManyRuns(store)
    yield stage
    stage.close()


# ── every order of a few events ─────────────────────────────────────────────────────────────────────────────

TWO_ATTEMPTS: list[SentEvent] = [
    (1, 1, "run.stage_started", {"stage": "Stage_1"}),
    (1, 2, "run.stage_completed", {"stage": "Stage_1", "duration_s": 2.0}),
    (1, 3, "run.lost", {"reason": "no lease"}),
    (2, 1, "run.stage_started", {"stage": "Stage_1", "desc": "again"}),
    (2, 2, "run.stage_metric", {"stage": "Stage_1", "name": "loss", "value": 0.5, "step": 1}),
    (2, 3, "run.stage_progress", {"stage": "Stage_1", "progress": 0.25, "good_nodes": 3}),
]
FOREIGN: list[SentEvent] = [
    (None, 1, "run.started", {"pod_id": "p"}),
    (None, 2, "run.stage_started", {"stage": "Stage_1"}),
    (None, 3, "run.stage_completed", {"stage": "Stage_1"}),
    (None, 4, "run.completed", {"total_duration_s": 3.0}),
    (None, 5, "validation.auto_started", {"model": "m"}),
    (None, 6, "validation.auto_completed", {"verdict": "pass"}),
]


@pytest.mark.parametrize(
    ("history", "document", "status"),
    [
        (TWO_ATTEMPTS, {"status": "RUNNING", "attempt": 2, "leasedAttempt": 2, "leaseToken": "t"}, "RUNNING"),
        (FOREIGN, {"status": "SCHEDULED"}, "AWAITING_HUMAN"),
    ],
    ids=["two attempts", "a foreign emitter"],
)
def test_all_orders_of_six_events_end_in_one_view(
    many_runs: ManyRuns, history: list[SentEvent], document: dict[str, Any], status: str
) -> None:
    orders = {f"order{number:04d}": order for number, order in enumerate(itertools.permutations(history))}
    assert len(orders) == 720
    many_runs.add(list(orders), document)
    for place in range(len(history)):
        many_runs.ingest([arrival(run_id, order[place]) for run_id, order in orders.items()])

    views = many_runs.views()
    expected = views["order0000"]
    assert f'"status": "{status}"' in expected
    different = [order for run_id, order in orders.items() if views[run_id] != expected]
    assert not different, f"{len(different)} orders, the first: {[each[:3] for each in different[0]]}"


# ── long histories ──────────────────────────────────────────────────────────────────────────────────────────

ATTEMPTS = 3
RUNS = 12
_KINDS: list[Callable[[random.Random], tuple[str, dict[str, Any]]]] = [
    lambda rng: ("run.started", {"pod_id": f"pod{rng.randint(1, 3)}"}),
    lambda rng: ("run.heartbeat", {"gpu_util": rng.random()}),
    lambda rng: ("run.stage_started", {"stage": _stage(rng)}),
    lambda rng: ("run.stage_progress", {"stage": _stage(rng), "progress": rng.uniform(-0.5, 1.5)}),
    lambda rng: ("run.stage_progress", {"stage": _stage(rng), "progress": rng.random(), "iteration": rng.randint(0, 9)}),
    lambda rng: ("run.stage_metric", {"stage": _stage(rng), "name": _name(rng), "value": rng.random(), "step": rng.randint(0, 5)}),
    lambda rng: ("run.stage_metric", {"stage": _stage(rng), "name": _name(rng), "value": rng.random(), "unit": "s"}),
    lambda rng: ("run.stage_completed", {"stage": _stage(rng), "duration_s": rng.random(), "summary": {"$a.b": rng.random()}}),
    lambda rng: ("run.stage_failed", {"stage": _stage(rng), "code": "X", "message": "$m"}),
    lambda rng: ("run.log", {"message": "hello", "level": rng.choice(["info", "warn"])}),
    lambda rng: ("run.lost", {"reason": "x"}),
    lambda rng: ("run.preempted", {"reason": "y", "seconds_left": rng.random()}),
    lambda rng: ("run.failed", {"code": "X", "message": "late"}),
    lambda rng: ("run.completed", {"total_duration_s": rng.random()}),
    lambda rng: ("node.selected_best", {"stage": _stage(rng), "node_id": f"n{rng.randint(0, 9)}"}),
    lambda rng: ("artifact.registered", {"key": f"k{rng.randint(0, 2)}", "bytes": rng.randint(0, 9), "content_type": "a/b", "kind": "data"}),
    lambda rng: ("training.checkpoint", {"step": rng.randint(0, 99), "key": "k", "bytes": 1, "sha256": "ab"}),
    lambda rng: ("paper.generated", {"artifact_key": "k", "word_count": rng.randint(0, 99)}),
    lambda rng: ("budget.warning", {"spent_usd": rng.random(), "limit_usd": 1.0, "fraction": 0.5}),
    lambda rng: ("validation.auto_completed", {"verdict": rng.choice(["pass", "fail"])}),
]  # fmt: skip


def _stage(rng: random.Random) -> str:
    return rng.choice(["Stage_1", "Stage_2", "a.b $c"])


def _name(rng: random.Random) -> str:
    return rng.choice(["loss", "eval.loss", "$x"])


def long_history(rng: random.Random) -> list[SentEvent]:
    return [
        (attempt, number, *rng.choice(_KINDS)(rng))
        for attempt in range(1, ATTEMPTS + 1)
        for number in range(1, rng.randint(15, 40))
    ]


def late_and_repeated(history: list[SentEvent], rng: random.Random) -> list[list[SentEvent]]:
    """What is delivered after each claim: never an event of an attempt to come, but any of one that is over."""
    rounds: list[list[SentEvent]] = [[] for _ in range(ATTEMPTS)]
    for sent in history:
        begun = (sent[0] or 1) - 1
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            rounds[rng.randint(begun, ATTEMPTS - 1)].append(sent)
    for each in rounds:
        rng.shuffle(each)
    return rounds


def claimed(attempt: int) -> dict[str, Any]:
    return {"status": "RUNNING", "attempt": attempt, "leasedAttempt": attempt, "leaseToken": f"t{attempt}"}


def live(many_runs: ManyRuns, deliveries: dict[str, list[list[SentEvent]]], rng: random.Random) -> None:
    """Claim after claim of all runs, a reset of none: what was sent for each, in batches of random sizes."""
    runs = many_runs.database["runs"]
    for place in range(ATTEMPTS):
        runs.update_many({}, {"$set": claimed(place + 1)})
        due = {run_id: list(rounds[place]) for run_id, rounds in deliveries.items()}
        while any(due.values()):
            batch: list[IncomingEvent] = []
            for run_id, left in due.items():
                count = rng.randint(1, 12)
                batch += [arrival(run_id, each) for each in left[:count]]
                due[run_id] = left[count:]
            many_runs.ingest(batch)
    # Settled, reset, and sent the rest of an old attempt once more.
    runs.update_many({}, {"$set": {"status": "QUEUED", "attempt": ATTEMPTS + 1}, "$unset": {"leaseToken": 1}})
    many_runs.ingest([arrival(run_id, each) for run_id, rounds in deliveries.items() for each in rounds[0][:5]])


@pytest.mark.parametrize("seed", range(2))
def test_long_histories_in_any_order_end_in_the_view_of_the_right_one(many_runs: ManyRuns, seed: int) -> None:
    rng = random.Random(seed)
    histories = {f"run{number:04d}": long_history(rng) for number in range(RUNS)}
    in_order = {
        f"{run_id}x": [[each for each in history if each[0] == attempt] for attempt in range(1, ATTEMPTS + 1)]
        for run_id, history in histories.items()
    }
    mixed = {run_id: late_and_repeated(history, rng) for run_id, history in histories.items()}
    many_runs.add([*in_order, *mixed], {"status": "QUEUED", "attempt": 0})
    live(many_runs, in_order | mixed, rng)

    views = many_runs.views()
    for run_id in mixed:
        assert views[run_id] == views[f"{run_id}x"], f"{run_id}: {mixed[run_id]}"
        assert '"status": "QUEUED"' in views[run_id], "an event moved a run that the queue had claimed"
        assert rebuild(many_runs.database, run_id) > 0
    replayed = many_runs.views()
    for run_id in mixed:
        assert replayed[run_id] == views[run_id], f"{run_id}: a replay of the log shows something else"


def test_an_attempt_that_has_not_begun_shows_nothing(many_runs: ManyRuns) -> None:
    """Neither of a run that is at an earlier attempt nor of one that does not exist."""
    many_runs.add(["r1"], {"status": "RUNNING", "attempt": 1})
    before = many_runs.views()
    many_runs.ingest([arrival(run_id, each) for run_id in ("r1", "r9") for each in TWO_ATTEMPTS if each[0] == 2])
    assert many_runs.views() == before
    assert many_runs.database["runs"].find_one({"_id": "r9"}) is None
    assert many_runs.database["events"].count_documents({}) == 6


# ── what no order may bring about ───────────────────────────────────────────────────────────────────────────


def test_a_later_event_under_a_known_id_is_the_first_one(many_runs: ManyRuns) -> None:
    """Its newer time would win, and the log, which has the first, could not explain what is shown."""
    many_runs.add(["r1"], {"status": "RUNNING", "attempt": 1})
    first, second = (
        arrival("r1", (None, number, "run.stage_progress", {"stage": "Stage_1", "progress": number / 10}))
        for number in (1, 2)
    )
    again = IncomingEvent(replace(second.event, id=first.event.id), second.payload, "r1")
    many_runs.ingest([first])
    many_runs.ingest([again])
    stage = many_runs.database["stages"].find_one()
    assert stage is not None
    assert stage["progress"] == 0.1


@pytest.mark.parametrize(
    ("status", "late"),
    [
        ("QUEUED", (1, 9, "run.canceled", {})),
        ("COMPLETED", (1, 9, "validation.auto_started", {"model": "m"})),
        ("COMPLETED", (1, 9, "validation.auto_completed", {"verdict": "pass"})),
    ],
)
def test_late_events_never_move_an_attempt_that_the_queue_has_settled(
    many_runs: ManyRuns, status: str, late: SentEvent
) -> None:
    """Also where the step itself would be allowed: else the end would depend on how late they are."""
    many_runs.add(["r1"], {"status": status, "attempt": 1, "leasedAttempt": 1})
    many_runs.ingest([arrival("r1", late)])
    run = many_runs.database["runs"].find_one({"_id": "r1"})
    assert run is not None
    assert run["status"] == status
    assert "canceledAt" not in run
