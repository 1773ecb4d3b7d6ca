"""`runs prune`: artifacts are deleted with their runs, or the command says that they would stay."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import pytest
from minio import Minio
from pymongo.database import Database

from pod_worker.local.s3 import S3Access
from tests.cli.conftest import Cli

Db = Database[dict[str, Any]]


@pytest.fixture
def old_run(cli: Cli, db: Db) -> str:
    run_id = str(cli("runs", "submit", "synthetic", "--json").json["id"])
    row = {"runId": run_id, "key": key_of(run_id), "kind": "data", "bytes": 1}
    db.artifacts.insert_one({"_id": f"{run_id}:data:x", "sha256": hashlib.sha256(b"x").hexdigest(), **row})
    db.artifacts.update_one({}, {"$currentDate": {"verifiedAt": True}})
    past = {"$subtract": ["$$NOW", 40 * 86_400_000]}
    db.runs.update_one(
        {"_id": run_id}, [{"$set": {"status": "COMPLETED", "createdAt": past, "completedAt": past}}]
    )
    return run_id


def key_of(run_id: str) -> str:
    return f"runs/{run_id}/1/a.txt"


def test_without_an_object_store_nothing_is_deleted_unless_asked(cli: Cli, db: Db, old_run: str) -> None:
    refused = cli("runs", "prune", "--yes")
    assert refused.code == 2
    assert "MINIO_ENDPOINT is not set" in refused.err
    assert db.runs.count_documents({}) == 1
    kept = cli("runs", "prune", "--yes", "--keep-objects")
    assert kept.code == 0
    assert "stay in the object store" in kept.err
    assert db.runs.count_documents({}) == 0


def test_artifacts_are_deleted_with_their_run(
    cli: Cli, db: Db, old_run: str, s3: S3Access, s3_client: Minio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINIO_ENDPOINT", s3.url)
    monkeypatch.setenv("MINIO_ACCESS_KEY", s3.access_key)
    monkeypatch.setenv("MINIO_SECRET_KEY", s3.secret_key)
    monkeypatch.setenv("MINIO_BUCKET", s3.bucket)
    s3_client.put_object(s3.bucket, key_of(old_run), io.BytesIO(b"x"), 1)
    result = cli("runs", "prune", "--yes")
    assert result.code == 0
    assert "1 objects" in result.err
    assert not list(s3_client.list_objects(s3.bucket, recursive=True))


def test_a_pipe_cannot_be_asked(cli: Cli, db: Db, old_run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    result = cli("runs", "prune", "--keep-objects")
    assert result.code == 2
    assert "Pass --yes" in result.err
    assert db.runs.count_documents({}) == 1
