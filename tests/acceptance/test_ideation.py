"""A front end asks for ideas, and a worker for ideation writes them with the scripted model."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from ulid import ULID

from pod_worker.core.research.idea import read_idea
from tests.acceptance.local_stack import Running, wait_for

pytestmark = pytest.mark.slow


def insert_request(running: Running) -> tuple[str, str]:
    """The documents of the front end of seed 001: it knows no run and no command."""
    hypothesis, request, now = str(ULID()), str(ULID()), datetime.now(UTC)
    running.db.hypotheses.insert_one(
        {
            "_id": hypothesis,
            "title": "Label noise",
            "idea": "Forests suffer less from wrong labels.",
            "createdAt": now,
        }
    )
    running.db.ideation_requests.insert_one(
        {
            "_id": request,
            "hypothesisId": hypothesis,
            "status": "QUEUED",
            "reflections": 1,
            "maxNumGenerations": 2,
            "createdAt": now,
        }
    )
    return hypothesis, request


def finished(running: Running, request: str) -> dict[str, Any] | None:
    found = running.db.ideation_requests.find_one({"_id": request}) or {}
    return found if found.get("status") in ("COMPLETED", "FAILED") else None


def test_a_front_ends_request_becomes_ideas_of_its_hypothesis(running: Running) -> None:
    hypothesis, request = insert_request(running)
    other = running.submit("synthetic", {"seconds": 0}, "--priority", "9")
    with running.worker("ideas", "--mode", "ideation", "--max-runs", "1", POD_WORKER_LLM="scripted") as worker:
        document = wait_for(lambda: finished(running, request), "the request to end", 90)
        assert worker.wait() == 0, worker.log_text()
    assert document["status"] == "COMPLETED", document.get("error")
    run = running.run(request)
    assert (run["status"], run["pipeline"], run["attempt"]) == ("COMPLETED", "ideation", 1)
    state = run["checkpoints"]["ideation"]["state"]
    assert state["is_scripted"] is True
    assert state["cost"]["calls"] > 0
    stored = running.db.hypotheses.find_one({"_id": hypothesis}) or {}
    ideas = [read_idea(each) for each in document["ideas"]]
    assert len(ideas) == 2
    assert stored["ideaJson"] == document["ideas"][0], "the first one is selected"
    names = {row["key"].rpartition("/")[2] for row in running.db.artifacts.find({"runId": request})}
    assert "ideas.json" in names
    assert running.run(other)["status"] == "QUEUED", "an ideation worker claims nothing else"
