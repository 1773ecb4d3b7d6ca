"""Deletes content that no run and no data set names, unused for a while.

The records go first: a crash in between leaves a doomed row, whose object the next sweep deletes.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from pod_worker.artifacts.object_store import ObjectStore
from pod_worker.content.wire import pack_key
from pod_worker.control.content.packs import manifest_key
from pod_worker.store import content_index as index
from pod_worker.store.mongo import Mongo

CONTENT_DAYS = 30
DATA_SET_DAYS = 180


def sweep_content(
    database: Mongo,
    store: ObjectStore,
    now: datetime,
    days: float = CONTENT_DAYS,
    data_set_days: float = DATA_SET_DAYS,
) -> int:
    """Returns how many objects were deleted. Raises ObjectStoreError; repeatable.

    A data set that was swept keeps its content for `days` longer, counted from its last use.
    """
    before = now - timedelta(days=days)
    index.forget_data_sets(database, now - timedelta(days=data_set_days))
    objects = 0
    for manifest in index.doom_manifests(database, before):
        store.delete(manifest_key(manifest))
        index.forget_manifest(database, manifest)
        objects += 1
    for pack in index.doom_packs(database, before):
        store.delete(pack_key(pack))
        index.forget_pack(database, pack)
        objects += 1
    return objects
