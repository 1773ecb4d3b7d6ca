"""Is every registered artifact in the object store, whole, and did every completed stage register its own?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing

from minio import Minio

from chaos.report import Row, info_row, zero_target_row
from pod_worker.local.s3 import S3Access, connect
from pod_worker.store.collections import ARTIFACTS, RUNS
from pod_worker.store.mongo import Document, Mongo
from pod_worker.store.superseded_artifacts import texts_in


def rows(database: Mongo, s3: S3Access) -> Iterator[Row]:
    registered = list(database[ARTIFACTS].find({"verifiedAt": {"$type": "date"}}))
    with connect(s3, timeout_seconds=60) as client:
        listed = {each.object_name: each.size for each in client.list_objects(s3.bucket, recursive=True)}
        wrong = [text for row in registered for text in _wrong(client, s3.bucket, row, listed)]
    keys = {str(row["key"]) for row in registered}
    value = f"{len(registered)} registered, {len(keys & listed.keys())} present"
    yield Row(
        "artifacts",
        value,
        "all whole",
        not wrong,
        "registered artifacts that the S3 listing has, each downloaded and its SHA-256 computed again",
        wrong,
    )
    yield zero_target_row(
        "artifacts forgotten",
        list(_forgotten(database, keys)),
        "a saved state or a finished stage names an artifact that is not registered",
    )
    extra = listed.keys() - keys
    yield info_row(
        "unregistered objects", str(len(extra)), "left by attempts that died between upload and registry"
    )


def _wrong(client: Minio, bucket: str, row: Document, listed: dict[str | None, int | None]) -> Iterator[str]:
    key = str(row["key"])
    if listed.get(key) != row["bytes"]:
        yield f"{key}: {row['bytes']} bytes registered, {listed.get(key)} in the store"
        return
    digest = hashlib.sha256()
    with closing(client.get_object(bucket, key)) as response:
        for chunk in response.stream(1 << 20):
            digest.update(chunk)
        response.release_conn()
    if digest.hexdigest() != row["sha256"]:
        yield f"{key}: SHA-256 {digest.hexdigest()[:12]}…, registered as {str(row['sha256'])[:12]}…"


def _forgotten(database: Mongo, keys: set[str]) -> Iterator[str]:
    """Also checkpoints of trainings: a resume needs them, and the control plane deletes superseded ones."""
    for run in database[RUNS].find({}, {"checkpoints": 1}):
        for stage, saved in (run.get("checkpoints") or {}).items():
            for text in texts_in(saved.get("state")):
                if text.startswith(f"runs/{run['_id']}/") and text not in keys:
                    yield f"{run['_id']} {stage}: {text}"
