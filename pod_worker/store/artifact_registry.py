"""The registry of artifacts: one row per run, kind and content, written only by whoever holds the run's lease.

Registration is one transaction: a write on the run that matches only the holder's fence, and the row. A row
with `verifiedAt` was compared with the object's bytes; rows without it are what foreign emitters claim.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.client_session import ClientSession
from pymongo.write_concern import WriteConcern

from pod_worker.core.lease import Fence
from pod_worker.core.run import Json
from pod_worker.core.stage import Artifact
from pod_worker.store.mongo import Document, Mongo

COLLECTION = "artifacts"
LIST_LIMIT = 10_000

INDEXES: dict[str, list[IndexModel]] = {
    COLLECTION: [
        IndexModel([("runId", ASCENDING), ("createdAt", ASCENDING), ("_id", ASCENDING)], name="run_created"),
        IndexModel([("key", ASCENDING), ("verifiedAt", DESCENDING)], name="key_verified"),
    ]
}


@dataclass(frozen=True, slots=True)
class ArtifactRow:
    """A row as read: tolerant, because foreign emitters write rows too."""

    id: str
    run_id: str
    key: str
    kind: str
    attempt: int | None
    bytes: int | None
    sha256: str | None
    content_type: str | None
    role: str | None
    verified_at: datetime | None
    created_at: datetime | None


@dataclass(frozen=True, slots=True)
class RunOwner:
    """Who may write for a run right now."""

    attempt: int
    is_leased: bool


def owner_of(database: Mongo, run_id: str) -> RunOwner | None:
    """None: no such run."""
    found = database["runs"].find_one({"_id": run_id}, {"attempt": 1, "leaseToken": 1})
    if found is None:
        return None
    attempt = found.get("attempt")
    return RunOwner(attempt if isinstance(attempt, int) else 0, bool(found.get("leaseToken")))


def is_owned_by(database: Mongo, run_id: str, fence: Fence | None) -> bool:
    """Whether the fence still stands; without one, whether nobody holds the run."""
    return database["runs"].find_one(_held_by(run_id, fence), {"_id": 1}) is not None


def register(
    database: Mongo, artifact_id: str, run_id: str, fence: Fence | None, artifact: Artifact
) -> ArtifactRow | None:
    """Record a verified artifact. None when the fence has fallen: nothing was written. Idempotent."""

    def write(session: ClientSession) -> bool:
        # A real write on the run, so that a claim in the same moment conflicts with it instead of passing by.
        touched = database["runs"].update_one(
            _held_by(run_id, fence), [{"$set": {"lastArtifactAt": "$$NOW"}}], session=session
        )
        if touched.matched_count == 0:
            return False
        database[COLLECTION].update_one(
            {"_id": artifact_id}, _row_update(run_id, fence, artifact), upsert=True, session=session
        )
        return True

    with database.client.start_session() as session:
        if not session.with_transaction(write, write_concern=WriteConcern("majority")):
            return None
    return verified(database, artifact_id)


def verified(database: Mongo, artifact_id: str) -> ArtifactRow | None:
    """The registered artifact with this id; a row nobody verified does not count."""
    found = database[COLLECTION].find_one({"_id": artifact_id, "verifiedAt": {"$type": "date"}})
    return row_from(found) if found else None


def verified_at_key(database: Mongo, key: str) -> ArtifactRow | None:
    """What is registered under a key: such an object must never be overwritten or removed."""
    found = database[COLLECTION].find_one({"key": key, "verifiedAt": {"$type": "date"}})
    return row_from(found) if found else None


def of_run(database: Mongo, run_id: str, limit: int = LIST_LIMIT) -> list[ArtifactRow]:
    """Oldest first."""
    found = database[COLLECTION].find({"runId": run_id}).sort([("createdAt", 1), ("_id", 1)]).limit(limit)
    return [row_from(document) for document in found]


def row_from(document: Document) -> ArtifactRow:
    def typed(field: str, kind: type) -> Json:
        value = document.get(field)
        return value if isinstance(value, kind) else None

    return ArtifactRow(
        id=str(document["_id"]),
        run_id=str(document.get("runId", "")),
        key=str(document.get("key", "")),
        kind=str(document.get("kind", "other")),
        attempt=typed("attempt", int),
        bytes=typed("bytes", int),
        sha256=typed("sha256", str),
        content_type=typed("contentType", str),
        role=typed("role", str),
        verified_at=typed("verifiedAt", datetime),
        created_at=typed("createdAt", datetime),
    )


def _held_by(run_id: str, fence: Fence | None) -> Document:
    if fence is None:
        return {"_id": run_id, "leaseToken": None}  # missing or null: a run that no worker holds
    return {"_id": run_id, "attempt": fence.attempt, "leaseToken": fence.token}


def _row_update(run_id: str, fence: Fence | None, artifact: Artifact) -> list[Document]:
    fields: dict[str, Json] = {
        "runId": run_id,
        "key": artifact.key,
        "bytes": artifact.bytes,
        "sha256": artifact.sha256,
        "kind": artifact.kind,
        "contentType": artifact.content_type,
    }
    if fence is not None:
        fields["attempt"] = fence.attempt
    if artifact.role is not None:
        fields["role"] = artifact.role
    # $literal: a name may begin with a dollar sign, and this is an aggregation pipeline.
    update: Document = {name: {"$literal": value} for name, value in fields.items()}
    update["createdAt"] = {"$ifNull": ["$createdAt", "$$NOW"]}
    update["verifiedAt"] = {"$ifNull": ["$verifiedAt", "$$NOW"]}
    return [{"$set": update}]
