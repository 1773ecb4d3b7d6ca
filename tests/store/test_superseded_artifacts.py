"""The run document decides which rotated checkpoints stay: what it may still come to name is never removed."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pod_worker.core.lease import Fence
from pod_worker.core.stage import ROTATED_ROLE, Artifact
from pod_worker.store import artifact_keys, artifact_registry, superseded_artifacts
from pod_worker.store.artifact_keys import KeyDoomedError
from pod_worker.store.mongo import ensure_indexes

FENCE = Fence("r", 1, "t")


@pytest.fixture
def runs(db: Any) -> Any:
    for module in (artifact_registry, artifact_keys, superseded_artifacts):
        ensure_indexes(db, module.INDEXES)
    db["runs"].insert_one({"_id": "r", "attempt": 1, "leaseToken": "t"})
    return db


def checkpoint(step: int, **changes: Any) -> Artifact:
    made = Artifact(key(step), 5, f"{step:064x}", "checkpoint", "application/x-tar", ROTATED_ROLE)
    return replace(made, **changes)


def key(step: int) -> str:
    return f"runs/r/1/checkpoints/step-{step:08d}.tar"


def publish(db: Any, *made: Artifact, fence: Fence = FENCE) -> None:
    for artifact in made:
        artifact_keys.reserve(db, artifact.key, fence.run_id, artifact.sha256)
        assert artifact_registry.register(db, f"r:{artifact.kind}:{artifact.sha256}", fence, artifact)


def name(db: Any, *keys: str, field: str = "previous") -> None:
    state = {"key": keys[0] if keys else "", field: [{"key": each} for each in keys[1:]]}
    db["runs"].update_one({"_id": "r"}, {"$set": {"checkpoints": {"training": {"state": state}}}})


def superseded(db: Any) -> list[str]:
    return [found.key for found in superseded_artifacts.find_superseded(db)]


def remove_all(db: Any) -> int:
    return sum(superseded_artifacts.remove(db, each) for each in list(superseded_artifacts.find_superseded(db)))


def test_what_the_document_no_longer_names_is_superseded_oldest_first(runs: Any) -> None:
    publish(runs, *(checkpoint(step) for step in (1, 2, 3, 4, 5)))
    name(runs, key(5), key(4), key(2))
    assert superseded(runs) == [key(1), key(3)]


def test_what_is_published_and_not_yet_named_is_kept(runs: Any) -> None:
    """A crash, or a slow pipe, lies between the registration and the run document."""
    publish(runs, *(checkpoint(step) for step in (1, 2, 3)))
    assert superseded(runs) == [], "nothing is named at all: after a reset, or before the first record"
    name(runs, key(2))
    assert superseded(runs) == [key(1)]


def test_the_clock_of_the_server_does_not_decide_the_order(runs: Any) -> None:
    """A new primary's clock may be behind the old one's."""
    publish(runs, checkpoint(1), checkpoint(2))
    future = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    runs["runs"].update_one({"_id": "r"}, {"$set": {"lastArtifactAt": future}})
    runs["artifacts"].update_one({"key": key(2)}, {"$set": {"publishedAt": future}})
    name(runs, key(2))
    publish(runs, checkpoint(3))
    assert superseded(runs) == [key(1)]


def test_bytes_that_a_later_attempt_publishes_again_count_as_new(runs: Any) -> None:
    publish(runs, *(checkpoint(step) for step in (1, 2, 3)))
    second = Fence("r", 2, "t2")
    runs["runs"].update_one({"_id": "r"}, {"$set": {"attempt": 2, "leaseToken": "t2", "checkpoints": {}}})
    name(runs, key(2))
    assert artifact_registry.publish_again(runs, f"r:checkpoint:{1:064x}", FENCE) is None, "it lost the run"
    assert artifact_registry.publish_again(runs, f"r:checkpoint:{1:064x}", second)
    assert superseded(runs) == []
    name(runs, key(1))
    assert superseded(runs) == [key(2), key(3)]


@pytest.mark.parametrize(
    "changes",
    [{"role": None}, {"role": "final"}, {"kind": "adapter"}, {"key": "runs/other/1/a.tar"}],
    ids=["of another stage", "final", "another kind", "another run's key"],
)
def test_only_rotated_checkpoints_of_the_run_s_own_folder_are_superseded(runs: Any, changes: Any) -> None:
    publish(runs, checkpoint(1, **changes), checkpoint(2))
    name(runs, key(2))
    assert superseded(runs) == []


def test_a_row_that_only_an_event_claims_is_never_superseded(runs: Any) -> None:
    row = {"runId": "r", "role": ROTATED_ROLE, "kind": "checkpoint", "key": key(1)}
    runs["artifacts"].insert_one({"_id": "claimed", **row, "publishedAt": datetime(2020, 1, 1, tzinfo=UTC)})
    publish(runs, checkpoint(2), checkpoint(3))
    name(runs, key(3), key(2))
    assert superseded(runs) == []


def test_odd_rows_and_odd_documents_harm_no_other_run(runs: Any) -> None:
    publish(runs, checkpoint(1), checkpoint(2))
    name(runs, key(2))
    odd = {"role": ROTATED_ROLE, "kind": "checkpoint", "verifiedAt": datetime(2020, 1, 1, tzinfo=UTC)}
    for number, run_id in enumerate(["gone", "gone", "odd", "odd", 7, None, {"a": 1}]):
        row = odd | {"_id": number, "runId": run_id, "key": number, "publishedAt": odd["verifiedAt"]}
        runs["artifacts"].insert_one(row)
    runs["artifacts"].insert_one(odd | {"_id": "x", "runId": "odd", "publishedAt": "yesterday"})
    runs["runs"].insert_one({"_id": "odd", "checkpoints": [[{"a": [7, None, {"b": key(9)}]}], "runs/odd"]})
    assert superseded(runs) == [key(1)]


def test_what_is_removed_is_no_row_any_more_and_a_late_event_brings_none_back(runs: Any) -> None:
    publish(runs, checkpoint(1), checkpoint(2))
    name(runs, key(2))
    assert remove_all(runs) == 1
    assert [row.key for row in artifact_registry.of_run(runs, "r")] == [key(2)]
    assert artifact_registry.at_key(runs, key(1)) is None
    assert artifact_registry.verified_at_key(runs, key(1)) is None
    assert superseded(runs) == []
    assert [*artifact_keys.deletions_due(runs)] == [key(1)]


def test_what_was_published_again_meanwhile_is_not_removed(runs: Any) -> None:
    publish(runs, checkpoint(1), checkpoint(2))
    name(runs, key(2))
    (found,) = superseded_artifacts.find_superseded(runs)
    assert artifact_registry.publish_again(runs, found.id, FENCE)
    assert not superseded_artifacts.remove(runs, found)
    assert [*artifact_keys.deletions_due(runs)] == []


def test_an_object_that_another_artifact_shares_is_spared(runs: Any) -> None:
    """The same bytes of two kinds under one name are one object."""
    publish(runs, checkpoint(1), checkpoint(1, kind="data", role=None), checkpoint(2))
    name(runs, key(2))
    assert remove_all(runs) == 1
    assert [row.kind for row in artifact_registry.of_run(runs, "r")] == ["data", "checkpoint"]
    assert [*artifact_keys.deletions_due(runs)] == []


def test_nothing_is_registered_under_a_doomed_key(runs: Any) -> None:
    publish(runs, checkpoint(1), checkpoint(2))
    name(runs, key(2))
    remove_all(runs)
    shared = checkpoint(1, kind="data", role=None)
    assert not artifact_keys.reserve(runs, shared.key, "r", shared.sha256)
    with pytest.raises(KeyDoomedError):
        artifact_registry.register(runs, "r:data:x", FENCE, shared)
    assert artifact_registry.verified(runs, "r:data:x") is None
    artifact_keys.mark_deleted(runs, key(1))
    assert not artifact_keys.reserve(runs, shared.key, "r", shared.sha256), "a slow sweep may still delete it"


def test_the_same_bytes_can_be_registered_again_under_another_key(runs: Any) -> None:
    publish(runs, checkpoint(1), checkpoint(2))
    name(runs, key(2))
    remove_all(runs)
    publish(runs, checkpoint(1, key="runs/r/1/checkpoints/again.tar"))
    listed = {row.key for row in artifact_registry.of_run(runs, "r")}
    assert listed == {key(2), "runs/r/1/checkpoints/again.tar"}


STEPS, WEIGHTS = ("publish", "record", "crash", "start over", "find", "remove"), (6, 6, 2, 1, 2, 4)


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 5, 7])
def test_no_order_of_steps_takes_away_what_the_document_names(runs: Any, seed: int) -> None:
    """Publish, record, crash, resume, start over, look for superseded ones, remove what was found long ago."""
    draw = random.Random(seed)
    attempt, step, removed = 1, 0, 0
    runs["runs"].update_one({"_id": "r"}, {"$set": {"leaseToken": "t1"}})
    named: list[str] = []
    unrecorded: list[str] = []
    found: list[Any] = []

    def check() -> None:
        doomed = {row["_id"] for row in runs["artifact_keys"].find({"isDoomed": True})}
        assert not doomed & set(named)
        assert set(named) <= {row.key for row in artifact_registry.of_run(runs, "r")}

    for _ in range(60):
        match draw.choices(STEPS, WEIGHTS)[0]:
            case "publish":
                step += 1
                made = checkpoint(step + 100 * draw.randint(0, 1))  # bytes of an earlier attempt, or new ones
                fence = Fence("r", attempt, f"t{attempt}")
                row = artifact_registry.publish_again(runs, f"r:checkpoint:{made.sha256}", fence)
                if row is None:
                    made = replace(made, key=f"runs/r/{attempt}/{made.sha256[-4:]}.tar")
                    publish(runs, made, fence=fence)
                unrecorded.append(row.key if row else made.key)
            case "record" if unrecorded:
                named = [unrecorded.pop(0), *named][:3]
                name(runs, *named)
            case "crash" | "start over" as end:
                attempt, step, unrecorded = attempt + 1, draw.randint(0, step), []
                named = named if end == "crash" else []
                runs["runs"].update_one({"_id": "r"}, {"$set": {"attempt": attempt, "leaseToken": f"t{attempt}"}})
                name(runs, *named)
            case "find":
                found += superseded_artifacts.find_superseded(runs)
            case "remove" if found:
                removed += superseded_artifacts.remove(runs, found.pop(draw.randrange(len(found))))
        check()
    removed += remove_all(runs)
    check()
    assert removed, "this order removes nothing, so it shows nothing: take another seed"


def test_its_queries_have_indexes(runs: Any) -> None:
    commands = [
        {"find": "artifacts", "filter": {**superseded_artifacts._ROTATED, "runId": "r"}},
        {"find": "artifact_keys", "filter": {"deletionDueSince": {"$type": "date"}}},
    ]
    plans = [str(runs.command("explain", each, verbosity="queryPlanner")["queryPlanner"]) for each in commands]
    assert "'indexName': 'rotated'" in plans[0]
    assert "'indexName': 'deletion_due'" in plans[1]
