"""The views behind the log: soon, all of it, and also when the process that stored it is no more."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from pymongo.errors import AutoReconnect, BulkWriteError

from pod_worker.control.events import projector as module
from pod_worker.control.events.decoding import read_line
from pod_worker.control.events.incoming import IncomingEvent
from pod_worker.control.events.markers import ABANDONED_SECONDS
from pod_worker.control.events.projections import project
from pod_worker.control.events.projector import ProjectionTicket, Projector
from pod_worker.control.events.replay import replay_since
from pod_worker.control.ingest.batch import batch_from_events
from pod_worker.control.ingest.service import Ingest
from pod_worker.control.metrics import ControlPlaneMetrics
from pod_worker.control.web.problem import ProblemError
from pod_worker.core.clock import ManualClock, SystemClock
from pod_worker.core.payload import StageProgress
from pod_worker.store.events.event_log import EventLog, arrival_and_expiry, event_document
from pod_worker.store.queue.stats import QueueStats
from pod_worker.store.views.changes import ViewChanges
from pod_worker.store.views.writer import Views
from tests.control.conftest import Plane
from tests.control.lines import NDJSON, event, ndjson
from tests.fake_runpod.waiting import until

T0 = datetime(2026, 1, 1, tzinfo=UTC)
R1 = frozenset({"r1"})
Make = Callable[..., Projector]


@pytest.fixture
def make(store: Any) -> Iterator[Make]:
    """`make(clock=…, start=False)` -> a projector over `store`; without start its thread never runs."""
    made: list[Projector] = []
    store["runs"].insert_many([{"_id": "r1", "status": "RUNNING"}, {"_id": "r2", "status": "RUNNING"}])

    def projector(clock: Any = None, *, start: bool = True) -> Projector:
        found = Projector(store, clock or SystemClock(), lambda: failures.append(1))
        made.append(found)
        if not start:
            found._thread = _NoThread()  # type: ignore[assignment]
        return found

    yield projector
    for each in made:
        each.close()


failures: list[int] = []


@pytest.fixture(autouse=True)
def no_failures_yet() -> None:
    failures.clear()


class _NoThread:
    def join(self, timeout: float) -> bool:
        return True


numbers = itertools.count(1)


def progress(share: float, run: str = "r1") -> IncomingEvent:
    sent = event(f"e{next(numbers)}", "ai.run.stage_progress", run=run, attempt=0, stage="s", progress=share)
    arrival = read_line(ndjson(sent))
    assert arrival.payload is not None
    return IncomingEvent(arrival.event, arrival.payload, run, counted_attempt=0, is_projected=True)


@contextmanager
def promised(
    projector: Projector, run_ids: frozenset[str], count: int, now: datetime
) -> Iterator[ProjectionTicket]:
    """A promise that is kept by this thread."""
    with asyncio.Runner() as loop:
        promise = projector.reserve(run_ids, count, now)
        made = loop.run(_entered(promise))
        try:
            yield made
        except BaseException as error:
            loop.run(_left(promise, error))
            raise
        loop.run(_left(promise, None))


async def _entered(promise: AbstractAsyncContextManager[ProjectionTicket]) -> ProjectionTicket:
    return await promise.__aenter__()


async def _left(promise: AbstractAsyncContextManager[ProjectionTicket], error: BaseException | None) -> None:
    await promise.__aexit__(type(error) if error else None, error, None)


def keep(projector: Projector, *arrived: IncomingEvent) -> None:
    run_ids = frozenset(each.run_id for each in arrived if each.run_id)
    with promised(projector, run_ids, len(arrived), now()) as promise:
        promise.changes = project(arrived)


def now() -> datetime:
    return datetime.now(UTC)


def shown(store: Any, run: str = "r1") -> float | None:
    found = store["stages"].find_one({"_id": f"{run}:s"})
    return found["progress"] if found else None


def notes(store: Any) -> dict[str, int]:
    return {each["runId"]: each["since"] for each in store["pending_projections"].find()}


# ── what is promised ────────────────────────────────────────────────────────────────────────────────────────


def test_it_is_noted_before_anything_can_be_acknowledged(make: Make, store: Any) -> None:
    projector = make(start=False)
    with promised(projector, R1, 3, now()) as promise:
        assert notes(store) == {"r1": promise.position}
    with promised(projector, R1, 3, now()) as later:
        assert later.position >= promise.position + 3
        assert notes(store) == {"r1": promise.position}, "one note stands for all that came after"


def test_a_note_that_cannot_be_written_is_no_promise(
    make: Make, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    projector = make(start=False)
    with monkeypatch.context() as broken:
        broken.setattr(projector._markers._pending, "mark", _away)
        with pytest.raises(AutoReconnect), promised(projector, R1, 1, now()):
            pytest.fail("nothing may be stored")
    with promised(projector, R1, 1, now()):
        assert set(notes(store)) == {"r1"}, "the next one tries again"


def _away(*_: Any) -> None:
    raise AutoReconnect("the connection broke")


def test_storing_slowly_renews_the_note(make: Make, store: Any) -> None:
    """Another process may have paid and forgotten the debt of one that seemed dead."""
    clock = ManualClock()
    projector = make(clock, start=False)
    with promised(projector, R1, 1, now()):
        clock.advance(ABANDONED_SECONDS)
        store["pending_projections"].delete_many({})
    assert set(notes(store)) == {"r1"}


def test_what_could_not_be_stored_leaves_nothing_open(make: Make, store: Any) -> None:
    projector = make()
    with pytest.raises(AutoReconnect), promised(projector, R1, 1, now()):
        raise AutoReconnect("not stored")
    projector.close()
    assert notes(store) == {}
    assert shown(store) is None


# ── and kept ────────────────────────────────────────────────────────────────────────────────────────────────


def test_closing_leaves_the_views_up_to_date_and_no_notes(make: Make, store: Any) -> None:
    projector = make()
    keep(projector, progress(0.25), progress(0.5, run="r2"))
    projector.close()
    assert (shown(store), shown(store, "r2")) == (0.25, 0.5)
    assert notes(store) == {}


def test_a_reader_does_not_wait_for_the_pace(make: Make, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MIN_INTERVAL_SECONDS", 3600.0)
    projector = make()
    for share in (0.1, 0.2, 0.3):
        keep(projector, progress(share))
        assert projector.wait_until_projected(seconds=20)
        assert shown(store) == share
    assert projector.waiting_events() == 0


def test_an_answer_tells_of_all_that_was_acknowledged(
    plane: Plane, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MIN_INTERVAL_SECONDS", 3600.0)
    store["runs"].insert_one({"_id": "r1", "status": "RUNNING"})
    http = plane()
    for number, share in enumerate((0.1, 0.2)):
        sent = event(f"p{number}", "ai.run.stage_progress", stage="s", progress=share)
        assert http.post("/api/ingest/events", content=ndjson(sent), headers=NDJSON).status_code == 202
        assert http.get("/api/runs/r1").json()["run"]["currentStage"]["progress"] == share


def test_the_database_comes_back(make: Make, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_PAUSE_SECONDS", 0.01)
    attempts = itertools.count()
    apply = Views.apply

    def unlucky(self: Views, changes: Any) -> None:
        if next(attempts) < 3:
            raise AutoReconnect("the connection broke")
        apply(self, changes)

    monkeypatch.setattr(Views, "apply", unlucky)
    projector = make()
    keep(projector, progress(0.75))
    until(lambda: projector.waiting_events() == 0, "the fourth try")
    assert shown(store) == 0.75
    assert failures == []


def test_a_change_that_cannot_be_written_fails_alone(make: Make, store: Any) -> None:
    unstorable = progress(0.1)
    unstorable = IncomingEvent(
        unstorable.event, StageProgress(stage="s", progress=0.1, iteration=2**80), "r1", counted_attempt=0
    )
    projector = make()
    keep(projector, unstorable, progress(0.5, run="r2"))
    assert projector.wait_until_projected(seconds=20)
    assert shown(store, "r2") == 0.5
    assert failures == [1, 1], "the stage and the run"


def test_too_far_behind_takes_no_more(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING_EVENTS", 2)
    monkeypatch.setattr(module, "ROOM_TIMEOUT_SECONDS", 0.01)
    projector = make(start=False)
    keep(projector, progress(0.1), progress(0.2))
    assert projector.waiting_events() == 2
    with pytest.raises(ProblemError) as refused, promised(projector, R1, 1, now()):
        pytest.fail("nothing may be stored")
    assert refused.value.status == 503


def test_what_a_majority_may_lack_is_written_again(
    make: Make, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_PAUSE_SECONDS", 0.01)
    late = {"writeErrors": [], "writeConcernErrors": [{"code": 64, "errmsg": "waiting for replication timed out"}]}
    apply, attempts = Views.apply, itertools.count()

    def uncertain(self: Views, changes: Any) -> None:
        apply(self, changes)
        if next(attempts) < 2:
            raise BulkWriteError(late)

    monkeypatch.setattr(Views, "apply", uncertain)
    projector = make()
    keep(projector, progress(0.75))
    until(lambda: projector.waiting_events() == 0, "the third try")
    assert next(attempts) == 3
    assert failures == []


def test_nobody_waits_for_a_database_that_is_away(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Views, "apply", _away)
    projector = make()
    keep(projector, progress(0.75))
    assert not projector.wait_until_projected(seconds=3600)


async def _taken_unprojected(store: Any, arrival: IncomingEvent) -> None:
    ingest = Ingest(store, SystemClock(), ControlPlaneMetrics(QueueStats))
    ingest.projector._thread = _NoThread()  # type: ignore[assignment]
    await ingest.ingest([batch_from_events([arrival])])
    await ingest.close()


def test_a_repeat_is_projected_before_it_is_acknowledged(make: Make, store: Any) -> None:
    """Its first arrival may have been stored by a group that failed half-way and took its note back."""
    arrived = progress(0.5)
    EventLog(store).append([event_document(arrived.event, "r1", 0, 1, arrival_and_expiry(now()), True)])
    make(start=False)
    asyncio.run(_taken_unprojected(store, IncomingEvent(arrived.event, arrived.payload, "r1")))
    assert shown(store) == 0.5


# ── after a death ───────────────────────────────────────────────────────────────────────────────────────────


def left_behind(make: Make, store: Any, share: float) -> None:
    """An event that was stored and acknowledged by a process that died before it projected it."""
    dead = make(start=False)
    arrived = progress(share)
    with promised(dead, R1, 1, now()) as promise:
        EventLog(store).append(
            [event_document(arrived.event, "r1", 0, promise.position, arrival_and_expiry(now()), True)]
        )
        promise.changes = project([arrived])


def age(store: Any, seconds: float) -> None:
    older = {"$subtract": ["$seenAt", int(seconds * 1000)]}
    store["pending_projections"].update_many({}, [{"$set": {"seenAt": older}}])


def test_what_the_dead_left_is_projected_by_the_living(make: Make, store: Any) -> None:
    left_behind(make, store, 0.5)
    age(store, ABANDONED_SECONDS + 1)
    make().start()
    until(lambda: shown(store) == 0.5, "the view tells of the stored event")
    until(lambda: notes(store) == {}, "and the note is gone")


def test_the_living_are_not_inherited_from(make: Make, store: Any) -> None:
    left_behind(make, store, 0.5)
    heir = make()
    heir.start()
    heir.close()
    assert shown(store) is None
    assert set(notes(store)) == {"r1"}


def test_a_note_that_was_renewed_is_not_forgiven(make: Make, store: Any) -> None:
    left_behind(make, store, 0.5)
    age(store, ABANDONED_SECONDS + 1)
    heir = make(start=False)
    (debt,) = heir._markers._pending.abandoned(ABANDONED_SECONDS)
    age(store, 1)  # its owner came back in between
    heir._markers._pending.discard(debt)
    assert set(notes(store)) == {"r1"}


def test_a_debt_that_cannot_be_paid_does_not_hold_up_the_others(
    make: Make, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_behind(make, store, 0.5)
    age(store, ABANDONED_SECONDS + 1)
    store["pending_projections"].insert_one({"_id": "a:r0", "owner": "a", "runId": "r0", "since": 1, "seenAt": T0})
    catch_up = replay_since

    def picky(database: Any, run_id: str, since: int) -> int:
        if run_id == "r0":
            raise BulkWriteError({"writeErrors": [{"code": 10334, "errmsg": "too large"}]})
        return catch_up(database, run_id, since)

    monkeypatch.setattr(module, "replay_since", picky)
    make().start()
    until(lambda: notes(store) == {}, "both are gone")
    assert shown(store) == 0.5
    assert failures == [1]


def test_a_note_taken_back_late_does_not_take_the_next_one(make: Make, store: Any) -> None:
    projector = make(start=False)
    with promised(projector, R1, 1, now()) as promise:
        projector._markers._pending.clear({"r1": promise.position - 1})
    assert notes(store) == {"r1": promise.position}


# ── the thread ──────────────────────────────────────────────────────────────────────────────────────────────


def test_an_unexpected_error_does_not_end_the_thread(
    make: Make, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge, attempts = ViewChanges.merge, itertools.count()

    def unlucky(self: ViewChanges, other: ViewChanges) -> None:
        if next(attempts) < 2:
            raise RuntimeError("a mistake of ours")
        merge(self, other)

    monkeypatch.setattr(ViewChanges, "merge", unlucky)
    projector = make()
    keep(projector, progress(0.75))
    until(lambda: projector.waiting_events() == 0, "the third try")
    assert shown(store) == 0.75
    assert projector.problem() is None


def test_a_projector_that_fails_again_and_again_turns_ready_red(
    plane: Plane, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: ViewChanges, other: ViewChanges) -> None:
        raise RuntimeError("a mistake of ours")

    store["runs"].insert_one({"_id": "r1", "status": "RUNNING"})
    http = plane()
    assert http.get("/readyz").status_code == 200
    monkeypatch.setattr(module, "CLOSE_SECONDS", 0.1)
    monkeypatch.setattr(ViewChanges, "merge", broken)
    sent = event("p1", "ai.run.stage_progress", stage="s", progress=0.5)
    assert http.post("/api/ingest/events", content=ndjson(sent), headers=NDJSON).status_code == 202
    until(lambda: http.get("/readyz").status_code == 503, "the thread has failed three times")
    assert "projector" in http.get("/readyz").json()["detail"]
    assert http.get("/healthz").status_code == 200
    monkeypatch.undo()
    until(lambda: http.get("/readyz").status_code == 200, "it works again")


def test_a_marker_that_cannot_be_read_does_not_stop_the_views(make: Make, store: Any) -> None:
    for since in ("abc", float("nan"), None):
        store["pending_projections"].insert_one({"owner": "a", "runId": "r1", "since": since, "seenAt": T0})
    projector = make()
    keep(projector, progress(0.75))
    until(lambda: shown(store) == 0.75, "the view tells of the stored event")
    assert projector.problem() is None
