"""Deletes what uploads leave behind, and superseded checkpoints.

Uploads leave objects that were never finalized, unfinished uploads and unregistered copies. Only keys that the
control plane made itself are deleted: below `uploads/`, and published keys that it reserved. A key that is
registered is kept, whatever else is recorded about it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from pod_worker.artifacts.keys import UPLOADS
from pod_worker.artifacts.object_store import ObjectStore
from pod_worker.store import artifact_keys, superseded_artifacts
from pod_worker.store import artifact_registry as registry
from pod_worker.store.mongo import Mongo

UPLOAD_DAYS = 7  # a slow link needs days for a large file; presigned URLs live for an hour


@dataclass(frozen=True, slots=True)
class SweepResult:
    objects: int  # deleted
    uploads: int  # unfinished multipart uploads, aborted


def sweep_uploads(database: Mongo, store: ObjectStore, now: datetime) -> SweepResult:
    """Delete everything unfinished that is older than UPLOAD_DAYS.

    Raises ObjectStoreError.
    """
    before = now - timedelta(days=UPLOAD_DAYS)
    objects = uploads = 0
    for found in store.list(f"{UPLOADS}/"):
        if found.modified is not None and found.modified < before:
            store.delete(found.key)
            objects += 1
    for unfinished in artifact_keys.unfinished(database, before):
        if registry.verified_at_key(database, unfinished.key) is not None:
            artifact_keys.keep(database, unfinished.key)
            continue
        if unfinished.upload_id is not None:
            store.abort(unfinished.key, unfinished.upload_id)
            uploads += 1
        elif store.stat(unfinished.key) is not None:
            store.delete(unfinished.key)
            objects += 1
        artifact_keys.forget(database, unfinished.key)
    return SweepResult(objects, uploads)


def sweep_checkpoints(database: Mongo, store: ObjectStore) -> int:
    """Delete every superseded checkpoint; returns how many objects.

    Raises ObjectStoreError; repeatable.

    The registry first: a crash in between leaves a doomed key, whose object the next sweep deletes.
    """
    for checkpoint in superseded_artifacts.find_superseded(database):
        superseded_artifacts.remove(database, checkpoint)
    objects = 0
    for key in artifact_keys.deletions_due(database):
        if registry.verified_at_key(database, key) is None:
            store.delete(key)
            objects += 1
        artifact_keys.mark_deleted(database, key)
    return objects
