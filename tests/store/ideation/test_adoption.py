"""Requests that front ends insert become runs, once, in whichever process and however often."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import bson
import pytest
from bson.objectid import ObjectId
from bson.raw_bson import RawBSONDocument

from pod_worker.core.clock import SystemClock
from pod_worker.core.run import RunStatus
from pod_worker.store.ideation.adoption import RequestAdoption
from pod_worker.store.ideation.hypotheses import Hypotheses, HypothesisRequest
from pod_worker.store.ideation.requests import IdeationRequest, IdeationRequests
from pod_worker.store.queue.run_queue import RunQueue, RunRequest
from tests.store.ideation.conftest import IDEA

T0 = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def adoption(database: Any, queue: RunQueue) -> RequestAdoption:
    Hypotheses(database).create(
        HypothesisRequest(id="h1", title="Noise", text="Smoothing helps.", context="digits")
    )
    return RequestAdoption(database, queue)


def foreign(database: Any, request_id: Any = "q1", **fields: Any) -> None:
    """As seed 001's front end writes it."""
    document = {
        "_id": request_id,
        "hypothesisId": "h1",
        "status": "QUEUED",
        "reflections": 2,
        "maxNumGenerations": 4,
    }
    database["ideation_requests"].insert_one(document | fields)


def test_a_foreign_request_becomes_a_run_of_its_id(
    adoption: RequestAdoption, database: Any, queue: RunQueue
) -> None:
    foreign(database)
    assert adoption.adopt_waiting() == ["q1"]
    run = queue.get("q1")
    assert run is not None
    assert (run.pipeline, run.queue, run.status, run.hypothesis_id) == (
        "ideation",
        "ideation",
        RunStatus.QUEUED,
        "h1",
    )
    assert run.priority > 0, "a hybrid worker claims ideation before experiments"
    assert run.params == {
        "hypothesis_id": "h1", "title": "Noise", "idea": "Smoothing helps.", "context": "digits",
        "reflections": 2, "max_num_generations": 4,
    }  # fmt: skip
    request = database["ideation_requests"].find_one({"_id": "q1"})
    assert (request["status"], request["runId"]) == ("QUEUED", "q1")
    hypothesis = database["hypotheses"].find_one({"_id": "h1"})
    assert hypothesis["ideation"]["requestId"] == "q1"
    assert adoption.adopt_waiting() == []


def test_a_request_without_numbers_gets_the_defaults(
    adoption: RequestAdoption, database: Any, queue: RunQueue
) -> None:
    database["ideation_requests"].insert_one({"_id": "q1", "hypothesisId": "h1", "status": "QUEUED"})
    assert adoption.adopt_waiting() == ["q1"]
    run = queue.get("q1")
    assert run is not None
    assert (run.params["reflections"], run.params["max_num_generations"]) == (3, 5)


def test_many_adopters_queue_one_run(adoption: RequestAdoption, database: Any) -> None:
    for number in range(20):
        foreign(database, f"q{number}", createdAt=T0)
    others = [RequestAdoption(database, RunQueue(database, SystemClock())) for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        adopted = [each for found in threads.map(lambda other: other.adopt_waiting(), others) for each in found]
    assert sorted(adopted) == sorted(f"q{number}" for number in range(20)), "each is reported by one process"
    assert database["runs"].count_documents({}) == 20


def test_a_crash_between_the_run_and_the_mark_is_repaired(
    adoption: RequestAdoption, database: Any, queue: RunQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign(database)
    with monkeypatch.context() as patch:
        patch.setattr(RequestAdoption, "_mark", lambda self, run_id: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            adoption.adopt_waiting()
    queued = queue.get("q1")
    assert adoption.adopt_waiting() == ["q1"]
    assert queue.get("q1") == queued


def test_no_run_may_bring_ideas_before_its_hypothesis_takes_them(
    adoption: RequestAdoption, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign(database)
    with monkeypatch.context() as patch:
        patch.setattr(RequestAdoption, "_link", lambda self, hypothesis, request, at: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            adoption.adopt_waiting()
    assert database["runs"].count_documents({}) == 0


def test_an_older_request_does_not_replace_the_current_one(adoption: RequestAdoption, database: Any) -> None:
    foreign(database, "new", createdAt=T0 + timedelta(minutes=1))
    assert adoption.adopt("new")
    foreign(database, "old", createdAt=T0)
    assert adoption.adopt("old")
    assert database["hypotheses"].find_one()["ideation"]["requestId"] == "new"
    foreign(database, "newest", createdAt=T0 + timedelta(minutes=2))
    assert adoption.adopt("newest")
    assert database["hypotheses"].find_one()["ideation"]["requestId"] == "newest"


def test_a_new_request_knows_the_titles_of_earlier_ideas(
    adoption: RequestAdoption, database: Any, queue: RunQueue
) -> None:
    foreign(database, "old", status="COMPLETED", createdAt=T0, ideas=[IDEA, "text", {"Title": 3}])
    foreign(database, "new")
    adoption.adopt_waiting()
    run = queue.get("new")
    assert run is not None
    assert run.params["prior_titles"] == [IDEA["Title"]]


def test_our_request_goes_the_same_way(adoption: RequestAdoption, database: Any, queue: RunQueue) -> None:
    requests = IdeationRequests(database)
    requests.insert(
        IdeationRequest(id="q1", hypothesis_id="h1", reflections=1, params={"model": "m"}, created_by="ana")
    )
    requests.insert(IdeationRequest(id="q1", hypothesis_id="other"))  # repeated after an unknown outcome
    assert adoption.adopt("q1")
    run = queue.get("q1")
    assert run is not None
    assert run.params["model"] == "m"
    shown = requests.get("q1")
    assert shown is not None
    assert (shown["hypothesisId"], shown["status"], shown["createdBy"]) == ("h1", "QUEUED", "ana")


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"reflections": 11}, "reflections is '11'"),
    ({"reflections": "many"}, "reflections is 'many'"),
    ({"reflections": True}, "reflections is 'True'"),
    ({"maxNumGenerations": 0}, "maxNumGenerations is '0'"),
    ({"maxNumGenerations": 2.5}, "maxNumGenerations is '2.5'"),
    ({"hypothesisId": None}, "hypothesisId is 'None'"),
    ({"hypothesisId": ObjectId()}, "hypothesisId is"),
    ({"hypothesisId": "absent"}, "there is no hypothesis 'absent'"),
    ({"hypothesisId": "empty"}, "the idea text is empty"),
    ({"hypothesisId": "without"}, "the idea text is missing"),
    ({"hypothesisId": "long"}, "at most 20000"),
    ({"_id": ObjectId()}, "its id is of type ObjectId"),
    ({"_id": "a/b"}, "its id contains a slash"),
    ({"_id": "taken"}, "a run of the pipeline synthetic has its id already"),
]  # fmt: skip


def test_a_request_that_cannot_be_carried_out_fails_with_the_reason(
    adoption: RequestAdoption, database: Any, queue: RunQueue, caplog: pytest.LogCaptureFixture
) -> None:
    database["hypotheses"].insert_many(
        [{"_id": "empty", "idea": " \n"}, {"_id": "without"}, {"_id": "long", "idea": "x" * 20_001}]
    )
    queue.enqueue(RunRequest("taken", "synthetic", {}))
    for number, (fields, reason) in enumerate(REFUSED):
        foreign(database, fields.get("_id", "q1"), **{name: fields[name] for name in fields if name != "_id"})
        foreign(database, f"good{number}")
        with caplog.at_level(logging.WARNING):
            assert adoption.adopt_waiting() == [f"good{number}"], fields
        refused = database["ideation_requests"].find_one_and_delete({"status": "FAILED"})
        assert refused["error"].startswith("INVALID_INPUT")
        assert reason in refused["error"]
    assert "refused" in caplog.text
    assert database["runs"].count_documents({"pipeline": "ideation"}) == len(REFUSED)


def test_a_refused_request_ends_the_waiting_of_its_hypothesis(adoption: RequestAdoption, database: Any) -> None:
    database["hypotheses"].insert_one({"_id": "empty", "idea": "", "ideation": {"status": "QUEUED"}})
    foreign(database, hypothesisId="empty")
    adoption.adopt_waiting()
    ideation = database["hypotheses"].find_one({"_id": "empty"})["ideation"]
    assert ideation["status"] == "FAILED"
    assert "empty" in ideation["error"]


def test_an_id_that_is_not_utf8_is_refused_and_holds_up_nothing(adoption: RequestAdoption, database: Any) -> None:
    raw = bson.encode({"_id": "placeholder", "hypothesisId": "h1", "status": "QUEUED"})
    database["ideation_requests"].insert_one(
        RawBSONDocument(raw.replace(b"placeholder", b"\xff\xfe1234567\xc3\x28"))
    )
    foreign(database, "good")
    assert adoption.adopt_waiting() == ["good"]
    assert adoption.adopt_waiting() == []
    assert database["ideation_requests"].count_documents({"status": "FAILED"}) == 1
