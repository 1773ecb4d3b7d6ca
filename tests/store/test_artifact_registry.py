"""The registry of artifacts against a real replica set: fenced in the same moment as it is written."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from pod_worker.core.lease import Fence, RunWriter, UnleasedRun
from pod_worker.core.stage import Artifact
from pod_worker.store import artifact_registry

ARTIFACT = Artifact("runs/run1/2/a.txt", 5, "aa" * 32, "data", "text/plain")
NAME = f"run1:data:{ARTIFACT.sha256}"
FENCE = Fence("run1", 2, "token2")


@pytest.fixture
def held(db: Any) -> Any:
    db["runs"].insert_one({"_id": "run1", "attempt": 2, "leaseToken": "token2"})
    return db


def test_a_registration_is_read_back_and_can_be_repeated(held: Any) -> None:
    row = artifact_registry.register(held, NAME, FENCE, ARTIFACT)
    assert row is not None
    assert (row.key, row.bytes, row.sha256, row.kind) == (ARTIFACT.key, 5, ARTIFACT.sha256, "data")
    assert (row.run_id, row.attempt, row.role, row.content_type) == ("run1", 2, None, "text/plain")
    assert isinstance(row.verified_at, datetime)
    assert artifact_registry.register(held, NAME, FENCE, ARTIFACT) == row
    with_role = artifact_registry.register(held, NAME, FENCE, replace(ARTIFACT, role="final"))
    assert with_role == replace(row, role="final")
    assert artifact_registry.register(held, NAME, FENCE, ARTIFACT) == with_role  # a role is never taken away
    assert artifact_registry.of_run(held, "run1") == [with_role]
    assert (
        artifact_registry.verified(held, NAME)
        == artifact_registry.verified_at_key(held, ARTIFACT.key)
        == with_role
    )


@pytest.mark.parametrize(
    "writer",
    [Fence("run1", 1, "token2"), Fence("run1", 2, "other"), Fence("run2", 2, "token2"), UnleasedRun("run1", 2)],
)
def test_a_writer_that_does_not_hold_the_run_writes_nothing(held: Any, writer: RunWriter) -> None:
    before = held["runs"].find_one()
    assert not artifact_registry.is_owned_by(held, writer)
    assert artifact_registry.register(held, NAME, writer, ARTIFACT) is None
    assert held["artifacts"].count_documents({}) == 0
    assert held["runs"].find_one() == before


@pytest.mark.parametrize("run", [{"_id": "free"}, {"_id": "free", "leaseToken": None}])
def test_a_run_without_a_lease_takes_artifacts_made_by_hand(db: Any, run: dict[str, Any]) -> None:
    db["runs"].insert_one(run)
    assert artifact_registry.owner_of(db, "free") == artifact_registry.RunOwner(0, False)
    row = artifact_registry.register(db, "free:data:x", UnleasedRun("free", 0), ARTIFACT)
    assert row is not None
    assert row.attempt == 0


def test_the_holder_of_a_run(held: Any) -> None:
    assert artifact_registry.owner_of(held, "run1") == artifact_registry.RunOwner(2, True)
    assert artifact_registry.owner_of(held, "none") is None


def test_a_claim_in_the_same_moment_wins_over_the_registration(held: Any) -> None:
    """The new owner's write has begun and not yet ended when the old owner registers."""
    outcome: list[Any] = []
    with held.client.start_session() as session:
        session.start_transaction()
        claim = {"$set": {"attempt": 3, "leaseToken": "token3"}}
        held["runs"].update_one({"_id": "run1"}, claim, session=session)
        late = threading.Thread(
            target=lambda: outcome.append(artifact_registry.register(held, NAME, FENCE, ARTIFACT))
        )
        late.start()
        late.join(0.3)
        assert late.is_alive()  # it waits for the claim instead of passing by
        session.commit_transaction()
    late.join(30)
    assert outcome == [None]
    assert held["artifacts"].count_documents({}) == 0


def test_a_claim_waits_for_a_registration_that_has_begun(held: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the check of the fence and the row there is no moment for a new owner."""
    claim = {"$set": {"attempt": 3, "leaseToken": "token3"}}
    claims = [threading.Thread(target=lambda: held["runs"].update_one({"_id": "run1"}, claim))]
    real = artifact_registry._row_update
    waiting: list[bool] = []

    def claimed_here(*arguments: Any) -> Any:
        if not waiting:
            claims[0].start()
            claims[0].join(0.3)
            waiting.append(claims[0].is_alive())
        return real(*arguments)

    monkeypatch.setattr(artifact_registry, "_row_update", claimed_here)
    assert artifact_registry.register(held, NAME, FENCE, ARTIFACT) is not None
    claims[0].join(30)
    assert waiting == [True]
    assert held["runs"].find_one()["attempt"] == 3


def test_names_that_look_like_expressions_are_kept_as_they_are(held: Any) -> None:
    dollar = replace(ARTIFACT, key="runs/run1/2/$key", kind="$kind", content_type="$$NOW", role="$role")
    row = artifact_registry.register(held, NAME, FENCE, dollar)
    assert row is not None
    assert (row.key, row.kind, row.content_type, row.role) == (
        dollar.key,
        dollar.kind,
        dollar.content_type,
        dollar.role,
    )


def test_only_what_was_verified_counts_as_registered(held: Any) -> None:
    held["artifacts"].insert_one({"_id": NAME, "runId": "run1", "key": ARTIFACT.key, "createdAt": None})
    assert artifact_registry.verified(held, NAME) is None
    assert artifact_registry.verified_at_key(held, ARTIFACT.key) is None
    assert artifact_registry.register(held, NAME, FENCE, ARTIFACT) is not None
    assert artifact_registry.verified(held, NAME) is not None


def test_an_unreadable_row_never_breaks_the_list(held: Any) -> None:
    held["artifacts"].insert_one({"_id": 7, "runId": "run1", "bytes": "many", "verifiedAt": "yesterday"})
    held["artifacts"].insert_one({"_id": "x", "runId": "run1"})
    artifact_registry.register(held, NAME, FENCE, ARTIFACT)
    assert [row.id for row in artifact_registry.of_run(held, "run1")] == ["7", "x", NAME]
    assert len(artifact_registry.of_run(held, "run1", limit=2)) == 2


def _plan(held: Any, find: dict[str, Any], sort: dict[str, int] | None = None) -> str:
    command = {"find": "artifacts", "filter": find, "sort": sort or {}}
    plan = held.command("explain", command, verbosity="queryPlanner")["queryPlanner"]["winningPlan"]
    return str(plan)


def test_every_query_has_an_index(held: Any) -> None:
    listed = _plan(held, {"runId": "run1"}, {"createdAt": 1, "_id": 1})
    assert "'indexName': 'run_created'" in listed
    assert "'SORT'" not in listed
    by_key = _plan(held, {"key": ARTIFACT.key, "verifiedAt": {"$type": "date"}})
    assert "'indexName': 'key_verified'" in by_key
