"""An experiment that waits for an idea is queued once, by whichever process sees the idea."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pod_worker.core.clock import SystemClock
from pod_worker.core.failure import RunError
from pod_worker.store.ideation.hypotheses import Hypotheses, HypothesisRequest
from pod_worker.store.ideation.launches import WaitingLaunches, experiment_params
from pod_worker.store.queue.run_queue import RunQueue
from tests.store.ideation.conftest import IDEA


@pytest.fixture
def hypotheses(database: Any) -> Hypotheses:
    made = Hypotheses(database)
    assert made.create(HypothesisRequest(id="h1", title="Noise", text="Smoothing helps."))
    assert made.launch_when_ready("h1", "run-1", {"stages": 2})
    return made


def test_a_launch_waits_for_an_idea(hypotheses: Hypotheses, database: Any, queue: RunQueue) -> None:
    launches = WaitingLaunches(database, queue)
    assert launches.launch_ready() == []
    hypotheses.choose("h1", IDEA, 0, "ana")
    assert launches.launch_ready() == ["run-1"]
    run = queue.get("run-1")
    assert run is not None
    assert (run.pipeline, run.hypothesis_id) == ("experiment", "h1")
    assert run.params == {"stages": 2, "idea": IDEA}
    assert launches.launch_ready() == []
    found = database["hypotheses"].find_one({"_id": "h1"})
    assert (found["launchWhenReady"], found["launchedRunId"]) == (False, "run-1")


def test_the_task_of_the_idea_is_used_unless_another_is_given() -> None:
    assert experiment_params(IDEA, {}) == {"idea": IDEA}
    wine = IDEA | {"Task": "wine"}
    assert experiment_params(wine, {"seed": 1}) == {"task": "wine", "seed": 1, "idea": wine}
    assert experiment_params(wine, {"task": "digits"})["task"] == "digits"


def test_many_launchers_queue_one_run(hypotheses: Hypotheses, database: Any) -> None:
    hypotheses.choose("h1", IDEA, 0, "ana")
    others = [WaitingLaunches(database, RunQueue(database, SystemClock())) for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda other: other.launch_ready(), others))
    assert database["runs"].count_documents({}) == 1


def test_a_launch_that_crashed_half_way_queues_no_second_run(
    hypotheses: Hypotheses, database: Any, queue: RunQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    hypotheses.choose("h1", IDEA, 0, "ana")
    with monkeypatch.context() as patch:
        patch.setattr(WaitingLaunches, "_end", lambda self, document, values: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            WaitingLaunches(database, queue).launch_ready()
    assert WaitingLaunches(database, queue).launch_ready() == ["run-1"]
    assert database["runs"].count_documents({}) == 1


def test_a_launch_that_was_asked_for_meanwhile_is_kept(
    hypotheses: Hypotheses, database: Any, queue: RunQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    hypotheses.choose("h1", IDEA, 0, "ana")
    original = RunQueue.enqueue

    def enqueue(self: RunQueue, request: Any) -> Any:
        if request.id == "run-1":
            hypotheses.launch_when_ready("h1", "run-2", {})
        return original(self, request)

    monkeypatch.setattr(RunQueue, "enqueue", enqueue)
    assert WaitingLaunches(database, queue).launch_ready() == []
    assert WaitingLaunches(database, queue).launch_ready() == ["run-2"]
    assert queue.get("run-1") is not None


def test_an_idea_that_cannot_be_used_ends_the_launch_with_the_reason(
    hypotheses: Hypotheses, database: Any, queue: RunQueue
) -> None:
    database["hypotheses"].update_one({"_id": "h1"}, {"$set": {"ideaJson": {"Title": "only this"}}})
    assert WaitingLaunches(database, queue).launch_ready() == []
    found = database["hypotheses"].find_one({"_id": "h1"})
    assert found["launchWhenReady"] is False
    assert "'Abstract' is missing" in found["launchError"]


def test_a_front_end_may_ask_for_a_launch_without_a_run_id(database: Any, queue: RunQueue) -> None:
    database["hypotheses"].insert_one({"_id": "h2", "idea": "x", "ideaJson": IDEA, "launchWhenReady": True})
    assert WaitingLaunches(database, queue).launch_ready() == ["launch-h2"]
    assert WaitingLaunches(database, queue).launch_ready() == []


def test_the_beginning_of_an_id_finds_hypotheses(hypotheses: Hypotheses) -> None:
    assert hypotheses.ids_with_prefix("h", 10) == [("h1", "Noise")]
    assert [each["_id"] for each in hypotheses.newest(10)] == ["h1"]
    assert hypotheses.create(HypothesisRequest(id="h1", title="again", text="x")) is False


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"title": " "}, "the title is empty"),
        ({"title": "t" * 501}, "501 characters"),
        ({"text": ""}, "the idea text is empty"),
        ({"context": "c" * 100_001}, "the additional context has 100001"),
        ({"id": "a/b"}, "its id contains a slash"),
        ({"idea": {"Title": "x"}}, "'Abstract' is missing"),
    ],
    ids=str,
)
def test_a_hypothesis_that_no_run_could_use_is_refused(database: Any, fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(RunError, match=reason):
        Hypotheses(database).create(HypothesisRequest(**({"id": "h", "title": "t", "text": "x"} | fields)))
    assert database["hypotheses"].count_documents({}) == 0
