"""The object keys of the control plane: content of published ones, open uploads.

A published key is reserved for one content before the object is copied there, so two contents can never share a
key. Rows that never became a registration, and multipart uploads that never ended, are found here by their age.
A key whose object a sweep deletes is doomed: it is neither given out nor registered again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from pymongo import ASCENDING, IndexModel, ReturnDocument
from pymongo.client_session import ClientSession
from pymongo.errors import DuplicateKeyError

from pod_worker.core.run import Json
from pod_worker.store.collections import ARTIFACT_KEYS
from pod_worker.store.mongo import Document, Mongo, literal

INDEXES: dict[str, list[IndexModel]] = {
    ARTIFACT_KEYS: [
        IndexModel([("runId", ASCENDING)], name="run"),
        IndexModel([("unfinishedSince", ASCENDING)], name="unfinished", sparse=True),
        IndexModel([("deletionDueSince", ASCENDING)], name="deletion_due", sparse=True),
    ]
}


class KeyDoomedError(Exception):
    """The object under this key is being deleted: nothing can be registered there."""


@dataclass(frozen=True, slots=True)
class UnfinishedKey:
    """A key without a registration; `upload_id` is set for a multipart upload."""

    key: str
    upload_id: str | None


def reserve(database: Mongo, key: str, run_id: str, sha256: str) -> bool:
    """Whether the key holds this content, or is now reserved for it.

    False: it holds another one.

    A reservation that is not registered yet counts as fresh again; one that a sweep has begun to delete is not
    given out.
    """
    is_registered = {"$and": [{"$eq": ["$sha256", sha256]}, {"$not": ["$unfinishedSince"]}]}
    update: Document = {
        "runId": {"$ifNull": ["$runId", literal(run_id)]},
        "sha256": {"$ifNull": ["$sha256", sha256]},
        "unfinishedSince": {"$cond": [is_registered, "$$REMOVE", "$$NOW"]},
    }
    usable = {"_id": key, "sha256": {"$in": [sha256, None]}, "isDoomed": {"$ne": True}}
    for _ in range(2):  # two upserts can collide; the second try finds the winner's row
        try:
            found = database[ARTIFACT_KEYS].find_one_and_update(
                usable, [{"$set": update}], upsert=True, return_document=ReturnDocument.AFTER
            )
            return found is not None and bool(found["sha256"] == sha256)
        except DuplicateKeyError:  # the key's row does not match: another content, or doomed
            continue
    return False


def record_upload(database: Mongo, key: str, run_id: str, upload_id: str) -> None:
    """Note a multipart upload, so that it can be aborted when nothing finishes it."""
    row = {"runId": literal(run_id), "uploadId": literal(upload_id), "unfinishedSince": "$$NOW"}
    database[ARTIFACT_KEYS].update_one({"_id": key}, [{"$set": row}], upsert=True)


def mark_registered(database: Mongo, key: str, session: ClientSession) -> None:
    """Raises KeyDoomedError.

    A real write, so that `doom` in the same moment conflicts with it.
    """
    update: list[Document] = [{"$set": {"registeredAt": "$$NOW"}}, {"$unset": "unfinishedSince"}]
    marked = database[ARTIFACT_KEYS].update_one({"_id": key, "isDoomed": {"$ne": True}}, update, session=session)
    if not marked.matched_count and database[ARTIFACT_KEYS].find_one({"_id": key}, session=session):
        raise KeyDoomedError(key)


def doom(database: Mongo, key: str, run_id: str, session: ClientSession | None = None) -> None:
    """Have a sweep delete the object under this key.

    The key stays doomed for as long as its run exists.
    """
    row = {"runId": literal(run_id), "isDoomed": True, "deletionDueSince": "$$NOW"}
    database[ARTIFACT_KEYS].update_one({"_id": key}, [{"$set": row}], upsert=True, session=session)


def deletions_due(database: Mongo) -> Iterator[str]:
    """The doomed keys whose objects are not known to be deleted."""
    for row in database[ARTIFACT_KEYS].find({"deletionDueSince": {"$type": "date"}}, {"_id": 1}):
        yield str(row["_id"])


def mark_deleted(database: Mongo, key: str) -> None:
    database[ARTIFACT_KEYS].update_one({"_id": key}, {"$unset": {"deletionDueSince": ""}})


def keep(database: Mongo, key: str) -> None:
    """Undo the mark of `unfinished` for a key that turned out to be registered."""
    database[ARTIFACT_KEYS].update_one({"_id": key}, {"$unset": {"unfinishedSince": "", "isDoomed": ""}})


def forget(database: Mongo, key: str) -> None:
    database[ARTIFACT_KEYS].delete_one({"_id": key})


def unfinished(database: Mongo, before: datetime) -> Iterator[UnfinishedKey]:
    """Every key without a registration since before then.

    Marks it: `reserve` no longer gives it out.
    """
    condition = {"unfinishedSince": {"$lt": before}}
    for row in database[ARTIFACT_KEYS].find(condition, {"_id": 1}):
        found = database[ARTIFACT_KEYS].find_one_and_update(
            {"_id": row["_id"]} | condition, {"$set": {"isDoomed": True}}
        )
        if found is not None:
            upload_id = found.get("uploadId")
            yield UnfinishedKey(str(found["_id"]), upload_id if isinstance(upload_id, str) else None)


def forget_registered(database: Mongo, run_id: Json) -> None:
    """For a run whose artifacts were deleted.

    A key whose object only a sweep deletes stays until then.
    """
    database[ARTIFACT_KEYS].delete_many({"runId": run_id, "unfinishedSince": None, "deletionDueSince": None})
