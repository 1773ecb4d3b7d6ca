"""Any order, any repetition, one view: short histories of two attempts, on a real database."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pod_worker.control.events.decoding import payload_of
from pod_worker.control.events.incoming import IncomingEvent
from pod_worker.control.events.projections import PROJECTIONS
from pod_worker.control.events.replay import rebuild
from pod_worker.control.ingest.batch import batch_from_events
from pod_worker.core.event import Event
from pod_worker.core.payload import PAYLOADS
from pod_worker.store.views.metric_series import MetricSeries
from pod_worker.store.views.writer import Views
from tests.control.batches import ingest_events, take

T0 = datetime(2026, 1, 1, tzinfo=UTC)
VIEWS = ("stages", "validations", "artifacts")


def test_every_payload_has_a_projection() -> None:
    assert PROJECTIONS.keys() == PAYLOADS.keys()


def arrival(number: int, kind: str, attempt: int | None, run: str = "r1", /, **data: Any) -> IncomingEvent:
    body = {"run_id": run, **data}
    seq = number if attempt is not None else None
    at = T0 + timedelta(seconds=number)
    made = Event(f"{run}-e{attempt}-{number:03d}", "test://x", f"ai.{kind}", f"run/{run}", at, body, seq, attempt)
    return IncomingEvent(made, payload_of(made.type, body), run)


def attempt_of(
    attempt: int | None, start: int, ending: Sequence[tuple[str, dict[str, Any]]]
) -> list[IncomingEvent]:
    """A short attempt: two stages, metrics under one step twice, an artifact, a checkpoint, and its end."""
    sent: list[tuple[str, dict[str, Any]]] = [
        ("run.started", {"pod_id": f"pod{attempt}", "gpu": "A"}),
        ("run.stage_started", {"stage": "Stage_1"}),
        ("run.stage_progress", {"stage": "Stage_1", "progress": 0.5, "iteration": start}),
        ("run.stage_metric", {"stage": "Stage_1", "name": "eval.loss", "value": 0.5 + start, "step": 1}),
        ("run.stage_metric", {"stage": "Stage_1", "name": "eval.loss", "value": 0.1 + start, "step": 1}),
        ("artifact.registered", {"key": "k", "bytes": 5 + (attempt or 0), "content_type": "a/b", "kind": "data"}),
        ("run.stage_completed", {"stage": "Stage_1", "duration_s": 4.0, "summary": {"a.b": "$x"}}),
        ("training.checkpoint", {"step": start, "key": "k", "bytes": 1, "sha256": "ab"}),
        ("run.stage_progress", {"stage": "Stage_2", "progress": 1.5}),
        *ending,
    ]
    return [arrival(start + place, kind, attempt, **data) for place, (kind, data) in enumerate(sent)]


LOST = [("run.lost", {"reason": "no lease"})]
STAGE_FAILED = [("run.stage_failed", {"stage": "Stage_2", "code": "X", "message": "m"})]
COMPLETED = [("run.completed", {"total_duration_s": 9.0})]
FAILED = [("run.failed", {"code": "OOMError", "message": "boom", "traceback": "t"})]
VALIDATED = [
    *COMPLETED,
    ("validation.auto_started", {"model": "m"}),
    ("validation.auto_completed", {"verdict": "pass", "scores": {"a": 1.0}}),
]
CANCELED = [("run.canceled", {"by": "me"})]

# Our own worker, twice: the queue moves the status, late events of the first attempt still tell its history.
OURS = attempt_of(1, 1, STAGE_FAILED + LOST) + attempt_of(2, 1, COMPLETED)
OUR_RUN = {"_id": "r1", "status": "RUNNING", "attempt": 2, "leasedAttempt": 2, "leaseToken": "t"}
# A foreign emitter: no attempts, no lease; its events move the status.
FOREIGN_RUN = {"_id": "r1", "status": "SCHEDULED"}
FOREIGN = {
    "COMPLETED": attempt_of(None, 1, COMPLETED),
    "FAILED": attempt_of(None, 1, STAGE_FAILED + FAILED),
    "CANCELED": attempt_of(None, 1, CANCELED),
    "AWAITING_HUMAN": attempt_of(None, 1, VALIDATED),
}


class Bench:
    """Delivers histories to the same database again and again."""

    def __init__(self, database: Any) -> None:
        self._database = database

    def view(
        self, run: dict[str, Any], deliveries: Sequence[Sequence[IncomingEvent]], *, rebuilt: bool = False
    ) -> Any:
        for name in ("runs", "events", "metrics", *VIEWS):
            self._database[name].delete_many({})
        self._database["runs"].insert_one(dict(run))
        take(self._database, *map(batch_from_events, deliveries))
        if rebuilt:
            rebuild(self._database, "r1")
        rows = {name: {each["_id"]: each for each in self._database[name].find()} for name in ("runs", *VIEWS)}
        return rows | {"metrics": MetricSeries(self._database).read("r1")}


@pytest.fixture
def bench(store: Any) -> Bench:
    return Bench(store)


def deliveries(history: Sequence[IncomingEvent]) -> st.SearchStrategy[list[list[IncomingEvent]]]:
    """The history in any order, with repeats, cut into batches anywhere."""

    def cut(drawn: tuple[list[IncomingEvent], list[IncomingEvent], set[int]]) -> list[list[IncomingEvent]]:
        order, repeats, cuts = drawn
        mixed = order + repeats
        edges = [0, *sorted(place for place in cuts if place < len(mixed)), len(mixed)]
        return [mixed[a:b] for a, b in itertools.pairwise(edges) if a < b]

    repeats = st.lists(st.sampled_from(list(history)), max_size=6)
    cuts = st.sets(st.integers(1, len(history) + 6), max_size=5)
    return st.tuples(st.permutations(list(history)), repeats, cuts).map(cut)


QUICK = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)


@QUICK
@given(delivered=deliveries(OURS))
def test_two_attempts_in_any_order(bench: Bench, delivered: list[list[IncomingEvent]]) -> None:
    assert bench.view(OUR_RUN, delivered) == bench.view(OUR_RUN, [OURS])


@pytest.mark.parametrize("status", FOREIGN)
def test_a_foreign_run_in_any_order(bench: Bench, status: str) -> None:
    history = FOREIGN[status]
    expected = bench.view(FOREIGN_RUN, [history])
    assert expected["runs"]["r1"]["status"] == status

    @QUICK
    @given(delivered=deliveries(history))
    def check(delivered: list[list[IncomingEvent]]) -> None:
        assert bench.view(FOREIGN_RUN, delivered) == expected

    check()


@QUICK
@given(delivered=deliveries(OURS))
def test_a_replay_of_the_log_gives_the_same_view(bench: Bench, delivered: list[list[IncomingEvent]]) -> None:
    assert bench.view(OUR_RUN, delivered, rebuilt=True) == bench.view(OUR_RUN, [OURS])


def test_the_view_of_two_attempts(bench: Bench) -> None:
    """What the orders above all end in, in words."""
    view = bench.view(OUR_RUN, [OURS])
    run = view["runs"]["r1"]
    assert run["status"] == "RUNNING", "the queue's word, not the event's"
    assert run["pod"]["id"] == "pod2"
    assert run["metrics"] == {"eval%2Eloss": 1.1}
    assert run["currentStage"]["name"] == "Stage_2"
    assert run["currentStage"]["progress"] == 1.0, "clamped"
    assert run["lastEventSeq"] == 10
    assert run["interruption"]["kind"] == "lost", "an earlier attempt's history is not forgotten"
    stage = view["stages"]["r1:Stage_1"]
    assert (stage["status"], stage["summary"], stage["progress"]) == ("COMPLETED", {"a.b": "$x"}, 1.0)
    assert view["stages"]["r1:Stage_2"]["status"] == "FAILED", "the second attempt only reported progress there"
    assert [(each.name, [point.value for point in each.samples]) for each in view["metrics"]] == [
        ("eval.loss", [1.1])
    ]
    assert view["artifacts"]["r1:data:k"]["bytes"] == 7


# ── who may move the status ─────────────────────────────────────────────────────────────────────────────────


def moved(bench: Bench, run: dict[str, Any], *arrivals: IncomingEvent) -> Any:
    return bench.view({"_id": "r1"} | run, [arrivals])["runs"]["r1"]


def ended(attempt: int | None = None) -> IncomingEvent:
    return arrival(50, "run.failed", attempt, code="X", message="m")


def test_a_lease_makes_the_queue_the_only_writer(bench: Bench) -> None:
    run = moved(bench, {"status": "RUNNING", "attempt": 1, "leaseToken": "t"}, ended())
    assert run["status"] == "RUNNING"
    assert "errorCode" not in run


def test_a_late_event_cannot_end_a_run_that_was_queued_again(bench: Bench) -> None:
    """The worker settles first and its event ships a second later: by then the run waits for its retry."""
    settled = {"status": "QUEUED", "attempt": 1, "leasedAttempt": 1}
    assert moved(bench, settled, ended(attempt=1))["status"] == "QUEUED"


def test_no_event_fails_a_run_that_waits(bench: Bench) -> None:
    """An event without an attempt may be of the attempt before a reset. The queue alone fails a waiting run."""
    run = moved(bench, {"status": "QUEUED"}, ended())
    assert run["status"] == "QUEUED"
    assert "errorCode" not in run


def test_another_attempts_events_do_not_move_it(bench: Bench) -> None:
    assert moved(bench, {"status": "RUNNING", "attempt": 2}, ended(attempt=1))["status"] == "RUNNING"
    assert moved(bench, {"status": "RUNNING", "attempt": 2}, ended(attempt=2))["status"] == "FAILED"


@pytest.mark.parametrize("status", ["COMPLETED", "CANCELED", "HUMAN_VALIDATED", "FAILED"])
def test_an_ended_run_stays_ended(bench: Bench, status: str) -> None:
    run = moved(bench, {"status": status}, arrival(1, "run.started", None, pod_id="p"))
    assert run["status"] == status


def test_a_late_failure_puts_no_error_on_a_canceled_run(bench: Bench) -> None:
    run = moved(bench, {"status": "CANCELED"}, ended())
    assert run["status"] == "CANCELED"
    assert "errorCode" not in run


def test_an_old_word_for_scheduled(bench: Bench) -> None:
    assert moved(bench, {"status": "STARTING"}, arrival(1, "run.started", None, pod_id="p"))["status"] == "RUNNING"


def test_a_repeat_without_attempt_counts_for_the_attempt_it_came_in_first(bench: Bench, store: Any) -> None:
    """A foreign event sent twice, the second time after a reset, must not end the new attempt."""
    failure = ended()
    assert moved(bench, {"status": "RUNNING", "attempt": 1}, failure)["status"] == "FAILED"
    store["runs"].update_one({"_id": "r1"}, {"$set": {"status": "QUEUED", "attempt": 2}})
    ingest_events(store, failure)
    assert store["runs"].find_one()["status"] == "QUEUED"


def test_a_verified_artifact_outranks_an_events_word(bench: Bench, store: Any) -> None:
    bench.view({"_id": "r1"}, [])
    verified = {"_id": "r1:data:k", "runId": "r1", "key": "k", "bytes": 7, "verifiedAt": T0}
    store["artifacts"].insert_one(dict(verified))
    claim = arrival(1, "artifact.registered", None, key="k", bytes=9, content_type="a/b", kind="data")
    ingest_events(store, claim)
    row = store["artifacts"].find_one()
    assert (row["bytes"], "contentType" in row) == (7, False)


def test_a_late_event_brings_no_removed_artifact_back(bench: Bench, store: Any) -> None:
    bench.view({"_id": "r1"}, [])
    removed = {"_id": "r1:data:k", "runId": "r1", "key": "k", "removedAt": T0}
    store["artifacts"].insert_one(dict(removed))
    claim = arrival(1, "artifact.registered", None, key="k", bytes=9, content_type="a/b", kind="data")
    ingest_events(store, claim)
    assert "bytes" not in store["artifacts"].find_one()
    Views(store).clear_projected("r1")
    ingest_events(store, claim)
    assert "bytes" not in store["artifacts"].find_one(), "a rebuild brings none back either"


def test_two_runs_in_one_batch_keep_apart(bench: Bench, store: Any) -> None:
    bench.view({"_id": "r1"}, [])
    store["runs"].insert_one({"_id": "r2"})
    sent = [
        arrival(1, "run.stage_progress", None, run, stage="s", progress=share)
        for run, share in (("r1", 0.1), ("r2", 0.2))
    ]
    ingest_events(store, *sent)
    assert {each["runId"]: each["progress"] for each in store["stages"].find()} == {"r1": 0.1, "r2": 0.2}
