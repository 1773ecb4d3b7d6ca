"""The sweep costs little when nothing waits, reads no collection whole, and never stops a worker from claiming."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from pymongo.errors import OperationFailure

from pod_worker.core.clock import SystemClock
from pod_worker.store.ideation.adoption import RequestAdoption
from pod_worker.store.ideation.hypotheses import Hypotheses, HypothesisRequest
from pod_worker.store.ideation.requests import IdeationRequest, IdeationRequests
from pod_worker.store.ideation.sweep import IdeationSweep
from pod_worker.store.queue.run_queue import RunQueue
from tests.store.commands import QUERIES, Commands, watched
from tests.store.ideation.conftest import IDEA
from tests.store.plans import plans


def test_every_query_has_an_index_and_an_idle_sweep_makes_four(mongodb_url: str) -> None:
    seen = Commands()
    with watched(mongodb_url, seen) as database:
        numbers = range(200)
        database["hypotheses"].insert_many({"_id": f"h{n}", "title": "t", "idea": "x"} for n in numbers)
        database["ideation_requests"].insert_many(
            {"_id": f"q{n}", "hypothesisId": f"h{n}", "status": "COMPLETED", "runId": f"q{n}"} for n in numbers
        )
        database["runs"].insert_many({"_id": f"q{n}", "status": "COMPLETED", "queue": "ideation"} for n in numbers)
        sweep = IdeationSweep(database, RunQueue(database, SystemClock()))
        seen.clear()
        sweep.run()
        assert seen.names() == ["find"] * 4
        hypotheses, requests = Hypotheses(database), IdeationRequests(database)
        hypotheses.create(HypothesisRequest(id="a", title="t", text="x"))
        hypotheses.launch_when_ready("a", "r", {})
        hypotheses.choose("a", IDEA, 0, "ana")
        requests.insert(IdeationRequest(id="b", hypothesis_id="a"))
        database["ideation_requests"].insert_one({"_id": "c", "hypothesisId": "absent", "status": "QUEUED"})
        sweep.run()
        hypotheses.get("a"), hypotheses.document("a"), hypotheses.newest(5), hypotheses.ids_with_prefix("a", 5)
        requests.get("b"), requests.newest(5), requests.newest(5, "a"), requests.ids_with_prefix("b", 5)
        commands = [each for each in seen.seen if next(iter(each)) in QUERIES]
        assert len(commands) > 20
        whole = [each for each in commands if "COLLSCAN" in plans(database, each)]
        assert whole == []


def test_a_worker_that_may_not_read_requests_still_claims(
    database: Any, queue: RunQueue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: RequestAdoption) -> list[str]:
        raise OperationFailure("not authorized", 13)

    monkeypatch.setattr(RequestAdoption, "adopt_waiting", refuse)
    with caplog.at_level(logging.WARNING):
        IdeationSweep(database, queue).run_if_due(1.0, 10.0)
    assert "not authorized" in caplog.text


def test_a_busy_worker_sweeps_once_in_an_interval(
    database: Any, queue: RunQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[None] = []
    sweep = IdeationSweep(database, queue)
    monkeypatch.setattr(IdeationSweep, "run", lambda self: runs.append(None))
    counts = []
    for now in (1.0, 2.0, 8.9, 9.1, 12.0):
        sweep.run_if_due(now, 10.0)
        counts.append(len(runs))
    assert counts == [1, 1, 1, 2, 2]
