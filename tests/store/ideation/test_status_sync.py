"""Requests and hypotheses follow the state of their run, also when an operator moves it."""

from __future__ import annotations

from typing import Any

import pytest

from pod_worker.core.failure import Failure, FailureCode
from pod_worker.core.outcome import Failed, Succeeded
from pod_worker.store.ideation.adoption import RequestAdoption
from pod_worker.store.ideation.hypotheses import Hypotheses, HypothesisRequest
from pod_worker.store.ideation.requests import IdeationRequest, IdeationRequests
from pod_worker.store.ideation.status_sync import RequestStatusSync
from pod_worker.store.queue.operations import OperatorActions
from pod_worker.store.queue.run_queue import Claim, ClaimingWorker, RunQueue

WORKER = ClaimingWorker("w", "pod", ("ideation",), ("ideation",))


class Request:
    """One adopted request and all that moves it."""

    def __init__(self, database: Any, queue: RunQueue) -> None:
        self.database, self.queue = database, queue
        self.sync = RequestStatusSync(database).sync
        Hypotheses(database).create(HypothesisRequest(id="h1", title="t", text="x"))
        IdeationRequests(database).insert(IdeationRequest(id="q1", hypothesis_id="h1"))
        assert RequestAdoption(database, queue).adopt("q1")

    def claim(self) -> Claim:
        claim = self.queue.claim(WORKER)
        assert claim is not None
        assert self.queue.start(claim.lease.fence)
        return claim

    def copies(self) -> list[tuple[str, str | None]]:
        """State and error, of the request and of the hypothesis."""
        request = self.database["ideation_requests"].find_one({"_id": "q1"})
        ideation = self.database["hypotheses"].find_one({"_id": "h1"})["ideation"]
        return [(each["status"], each.get("error")) for each in (request, ideation)]


@pytest.fixture
def request_(database: Any, queue: RunQueue) -> Request:
    return Request(database, queue)


def test_a_request_waits_runs_and_completes_with_its_run(request_: Request) -> None:
    request_.sync()
    assert request_.copies() == [("QUEUED", None)] * 2
    claim = request_.claim()
    assert request_.sync() == 1
    assert request_.copies() == [("RUNNING", None)] * 2
    assert request_.sync() == 0
    assert request_.queue.settle(claim.lease.fence, Succeeded())
    request_.sync()
    assert request_.copies() == [("COMPLETED", None)] * 2
    assert request_.sync() == 0


def test_a_failure_is_named_and_a_reset_opens_the_request_again(request_: Request) -> None:
    failed = Failed(Failure(FailureCode.LLM_AUTH, "no key"))
    assert request_.queue.settle(request_.claim().lease.fence, failed)
    request_.sync()
    assert request_.copies() == [("FAILED", "LLM_AUTH: no key")] * 2
    OperatorActions(request_.database).reset("q1", by="ana")
    request_.sync()
    assert request_.copies() == [("QUEUED", None)] * 2


def test_a_cancel_and_a_deleted_run_end_the_request(request_: Request) -> None:
    OperatorActions(request_.database).cancel("q1", by="ana")
    request_.sync()
    assert request_.copies() == [("CANCELED", None)] * 2
    OperatorActions(request_.database).reset("q1")
    request_.sync()
    request_.database["runs"].delete_one({"_id": "q1"})
    request_.sync()
    assert [status for status, _ in request_.copies()] == ["FAILED", "FAILED"]
    assert "deleted" in str(request_.copies()[0][1])


def test_a_reader_takes_the_state_from_the_run_and_needs_no_copy(request_: Request) -> None:
    request_.claim()
    requests = IdeationRequests(request_.database)
    found = requests.get("q1")
    assert found is not None
    assert (found["status"], found["attempt"]) == ("RUNNING", 1)
    assert [each["status"] for each in requests.newest(10, "h1")] == ["RUNNING"]
    assert requests.get("absent") is None


def test_a_hypothesis_shows_its_current_request_only(request_: Request, queue: RunQueue) -> None:
    IdeationRequests(request_.database).insert(IdeationRequest(id="q2", hypothesis_id="h1"))
    assert RequestAdoption(request_.database, queue).adopt("q2")
    OperatorActions(request_.database).cancel("q1")
    request_.sync()
    assert request_.copies() == [("CANCELED", None), ("QUEUED", None)]


def test_requests_of_foreign_workers_are_left_alone(request_: Request) -> None:
    foreign = {"_id": "f", "hypothesisId": "h1", "status": "RUNNING", "claimedBy": "pod_1"}
    request_.database["ideation_requests"].insert_one(dict(foreign))
    request_.sync()
    assert request_.database["ideation_requests"].find_one({"_id": "f"}) == foreign
