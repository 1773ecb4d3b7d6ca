"""What uploads leave behind is deleted after a week, superseded checkpoints at once; what is needed never is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pod_worker.artifacts.object_store import ObjectStore, UploadGoneError
from pod_worker.control.artifacts.sweep import UPLOAD_DAYS, SweepResult, sweep_checkpoints, sweep_uploads
from pod_worker.core.lease import Fence
from pod_worker.core.stage import ROTATED_ROLE, Artifact
from pod_worker.store import artifact_keys, artifact_registry, superseded_artifacts

NOW = datetime.now(UTC)
LATER = NOW + timedelta(days=UPLOAD_DAYS + 1)
ULID, SHA = "01ARZ3NDEKTSV4RRFFQ69G5FAV", "aa" * 32


@pytest.fixture
def store(s3: Any) -> ObjectStore:
    return ObjectStore(s3.endpoint, s3.access_key, s3.secret_key, s3.bucket)


@pytest.fixture
def put(store: ObjectStore, tmp_path: Path) -> Any:
    path = tmp_path / "file"
    path.write_bytes(b"bytes")
    return lambda key: store.put(key, path)


def test_an_upload_that_was_never_finalized_is_deleted_after_a_week(db: Any, store: ObjectStore, put: Any) -> None:
    put(f"uploads/{ULID}/runs/r/1/a")
    put("other/object")
    assert sweep_uploads(db, store, NOW) == SweepResult(0, 0)
    assert sweep_uploads(db, store, LATER) == SweepResult(1, 0)
    assert [item.key for item in store.list("")] == ["other/object"]


def test_a_multipart_upload_that_was_never_completed_is_aborted(db: Any, store: ObjectStore) -> None:
    key = f"uploads/{ULID}/runs/r/1/big"
    upload_id = store.create_multipart(key, "text/plain")
    artifact_keys.record_upload(db, key, "r", upload_id)
    assert sweep_uploads(db, store, NOW) == SweepResult(0, 0)
    assert sweep_uploads(db, store, LATER) == SweepResult(0, 1)
    with pytest.raises(UploadGoneError):
        store.list_parts(key, upload_id)
    assert sweep_uploads(db, store, LATER) == SweepResult(0, 0)


def test_a_copy_that_was_never_registered_is_deleted_and_a_registered_one_is_kept(
    db: Any, store: ObjectStore, put: Any
) -> None:
    for key in ("runs/r/1/fenced", "runs/r/1/good", "runs/r/1/foreign"):
        put(key)
    artifact_keys.reserve(db, "runs/r/1/fenced", "r", SHA)
    artifact_keys.reserve(db, "runs/r/1/good", "r", SHA)
    db["runs"].insert_one({"_id": "r", "attempt": 1, "leaseToken": "t"})
    artifact = Artifact("runs/r/1/good", 5, SHA, "data", "text/plain")
    artifact_registry.register(db, f"r:data:{SHA}", Fence("r", 1, "t"), artifact)
    assert sweep_uploads(db, store, LATER) == SweepResult(1, 0)
    assert sorted(item.key for item in store.list("")) == ["runs/r/1/foreign", "runs/r/1/good"]


def test_a_registration_outranks_a_reservation_that_says_unfinished(db: Any, store: ObjectStore, put: Any) -> None:
    """As for artifacts that were registered before keys were reserved."""
    put("runs/r/1/old")
    db["artifacts"].insert_one({"_id": "x", "runId": "r", "key": "runs/r/1/old", "verifiedAt": NOW})
    artifact_keys.reserve(db, "runs/r/1/old", "r", SHA)
    assert sweep_uploads(db, store, LATER) == SweepResult(0, 0)
    assert store.stat("runs/r/1/old") is not None
    assert artifact_keys.reserve(db, "runs/r/1/old", "r", SHA)


def test_rows_that_events_claim_delete_nothing(db: Any, store: ObjectStore, put: Any) -> None:
    put("runs/alice/1/model")
    db["artifacts"].insert_one({"_id": "mine", "runId": "r", "key": "runs/alice/1/model"})
    assert sweep_uploads(db, store, LATER) == SweepResult(0, 0)
    assert store.stat("runs/alice/1/model") is not None


def test_a_store_without_lifecycle_rules_is_left_to_the_sweep(store: ObjectStore) -> None:
    store.ensure_bucket()
    assert store.expire_uploads("uploads/", 7) is False


def _checkpoints(db: Any, put: Any, steps: int) -> list[str]:
    """So many registered checkpoints of one run, whose document names the last one."""
    db["runs"].insert_one({"_id": "r", "attempt": 1, "leaseToken": "t"})
    keys = [f"runs/r/1/checkpoints/{step}.tar" for step in range(steps)]
    for step, key in enumerate(keys):
        put(key)
        artifact_keys.reserve(db, key, "r", f"{step:064x}")
        made = Artifact(key, 5, f"{step:064x}", "checkpoint", "text/plain", ROTATED_ROLE)
        assert artifact_registry.register(db, f"r:checkpoint:{step}", Fence("r", 1, "t"), made)
    db["runs"].update_one({"_id": "r"}, {"$set": {"checkpoints.training": {"state": {"key": keys[-1]}}}})
    return keys


def test_superseded_checkpoints_leave_the_store_and_the_registry(db: Any, store: ObjectStore, put: Any) -> None:
    keys = _checkpoints(db, put, 3)
    assert sweep_checkpoints(db, store) == 2
    assert (
        [item.key for item in store.list("")] == [row.key for row in artifact_registry.of_run(db, "r")] == keys[2:]
    )
    assert sweep_checkpoints(db, store) == 0


def test_a_sweep_that_dies_before_it_deletes_is_finished_by_the_next(
    db: Any, store: ObjectStore, put: Any
) -> None:
    keys = _checkpoints(db, put, 2)
    for found in superseded_artifacts.find_superseded(db):
        superseded_artifacts.remove(db, found)
    artifact_keys.forget_registered(db, "r")  # a prune in between
    assert [item.key for item in store.list("")] == keys
    assert sweep_checkpoints(db, store) == 1
    assert [item.key for item in store.list("")] == keys[1:]


def test_a_key_that_is_registered_after_all_is_not_deleted(db: Any, store: ObjectStore, put: Any) -> None:
    keys = _checkpoints(db, put, 2)
    artifact_keys.doom(db, keys[1], "r")
    assert sweep_checkpoints(db, store) == 1
    assert [item.key for item in store.list("")] == keys[1:]
