"""Ideas reach the request and the hypothesis, in any order of arrival, and never past a person's choice."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from pod_worker.control.events.replay import rebuild
from pod_worker.store.ideation.hypotheses import Hypotheses
from tests.control.batches import ingest_events
from tests.control.events.test_projections import arrival


def idea(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "Name": f"n{number}", "Title": f"Idea {number}", "Short Hypothesis": "It helps.", "Related Work": "",
        "Abstract": "We test it.", "Experiments": ["one"], "Risk Factors and Limitations": ["small"],
    } | fields  # fmt: skip


IDEAS = [idea(1), idea(2), idea(3)]


def generated(number: int, attempt: int | None, ideas: list[Any], hypothesis: str | None = "h1") -> Any:
    return arrival(
        number, "ideation.generated", attempt, "q1", count=len(ideas), ideas=ideas, hypothesis_id=hypothesis
    )  # fmt: skip


@pytest.fixture
def db(store: Any) -> Any:
    reset(store)
    return store


def reset(store: Any) -> None:
    for name in ("runs", "events", "ideation_requests", "hypotheses"):
        store[name].delete_many({})
    store["runs"].insert_one({"_id": "q1", "status": "RUNNING", "attempt": 2, "pipeline": "ideation"})
    store["ideation_requests"].insert_one({"_id": "q1", "hypothesisId": "h1", "status": "RUNNING", "runId": "q1"})
    store["hypotheses"].insert_one({"_id": "h1", "title": "t", "idea": "x", "ideation": {"requestId": "q1"}})


def views(store: Any) -> tuple[Any, Any]:
    return store["ideation_requests"].find_one({"_id": "q1"}), store["hypotheses"].find_one({"_id": "h1"})


def test_ideas_are_written_to_both_and_the_first_is_selected_whatever_the_order(db: Any) -> None:
    history = [generated(1, 1, [idea(9)]), generated(1, 2, IDEAS[:1]), generated(2, 2, IDEAS)]
    for order in itertools.permutations(history):
        reset(db)
        for each in order:
            ingest_events(db, each)
        request, hypothesis = views(db)
        assert request["ideas"] == IDEAS
        assert request["ideaCount"] == 3
        assert request["status"] == "RUNNING"
        assert hypothesis["ideation"]["ideas"] == IDEAS
        assert hypothesis["ideaJson"] == IDEAS[0]
        assert hypothesis["ideaSource"] == {"requestId": "q1", "index": 0, "by": "ideation"}


def test_a_repeated_event_and_a_rebuild_change_nothing(db: Any) -> None:
    ingest_events(db, generated(1, 2, IDEAS))
    before = views(db)
    ingest_events(db, generated(1, 2, IDEAS))
    assert views(db) == before
    assert rebuild(db, "q1") == 1
    assert views(db) == before


def test_an_idea_that_a_person_chose_stays(db: Any) -> None:
    ingest_events(db, generated(1, 2, IDEAS[:2]))
    assert Hypotheses(db).choose("h1", IDEAS[1], 1, "ana")
    ingest_events(db, generated(2, 2, IDEAS))
    _, hypothesis = views(db)
    assert hypothesis["ideaJson"] == IDEAS[1]
    assert hypothesis["ideaSource"] == {"requestId": "q1", "index": 1, "by": "ana"}
    assert len(hypothesis["ideation"]["ideas"]) == 3


def test_an_idea_that_a_front_end_wrote_stays(db: Any) -> None:
    db["hypotheses"].update_one({"_id": "h1"}, {"$set": {"ideaJson": {"Title": "mine"}}})
    ingest_events(db, generated(1, 2, IDEAS))
    assert views(db)[1]["ideaJson"] == {"Title": "mine"}


def test_a_run_writes_only_to_the_hypothesis_whose_request_it_carries_out(db: Any) -> None:
    others = [{"_id": "h2", "ideation": {"requestId": "q2"}}, {"_id": "h3"}]
    db["hypotheses"].insert_many(others)
    ingest_events(db, generated(1, 2, IDEAS, "h2"), generated(2, 2, IDEAS, "h3"), generated(3, 2, IDEAS, "absent"))
    assert list(db["hypotheses"].find({"_id": {"$in": ["h2", "h3"]}}).sort("_id", 1)) == others
    assert db["hypotheses"].count_documents({}) == 3


def test_an_event_of_a_later_attempt_than_the_current_one_is_not_shown(db: Any) -> None:
    ingest_events(db, generated(1, 3, IDEAS))
    request, hypothesis = views(db)
    assert "ideas" not in request
    assert "ideaJson" not in hypothesis


def test_ideas_that_cannot_be_used_are_left_out(db: Any) -> None:
    for bad in ({}, {"Title": "only"}, idea(4, Abstract="x" * 12_000), idea(4, Experiments=[])):
        reset(db)
        ingest_events(db, generated(1, 2, [bad, *IDEAS]))
        assert views(db)[0]["ideas"] == IDEAS, bad


def test_twenty_large_ideas_fit_and_more_are_left_out(db: Any) -> None:
    large = [idea(number, Abstract="ä" * 5_800) for number in range(25)]
    ingest_events(db, generated(1, 2, large))
    request, hypothesis = views(db)
    assert request["ideas"] == large[:20]
    assert hypothesis["ideaJson"] == large[0]


def test_an_event_without_ideas_is_history(db: Any) -> None:
    """The form of the original: the count and some titles."""
    before = views(db)
    ingest_events(db, arrival(1, "ideation.generated", 2, "q1", count=3, top_k=["a"]))
    assert views(db) == before
