"""The registry of artifacts: one row per run, kind and content.

Only the holder of the run's lease writes it.

Registration is one transaction: a write on the run that matches only the holder's fence, and the row. A row
with `verifiedAt` was compared with the object's bytes; a row without it is the claim of an event. A row with
`removedAt` is one that was superseded: it stays, so that a late event does not bring it back, and is never listed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pymongo import ASCENDING, DESCENDING, IndexModel, ReturnDocument
from pymongo.client_session import ClientSession
from pymongo.write_concern import WriteConcern

from pod_worker.core.lease import Fence, RunWriter
from pod_worker.core.run import Json
from pod_worker.core.stage import Artifact
from pod_worker.store import artifact_keys
from pod_worker.store.collections import ARTIFACTS, RUNS
from pod_worker.store.mongo import Document, Mongo, tolerant_rows
from pod_worker.store.queue.fence import fence_filter, unleased_filter

LIST_LIMIT = 10_000

INDEXES: dict[str, list[IndexModel]] = {
    ARTIFACTS: [
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
    """The attempt that a run has reached, and whether a worker holds it now."""

    attempt: int
    is_leased: bool


def owner_of(database: Mongo, run_id: str) -> RunOwner | None:
    """None: no such run."""
    found = tolerant_rows(database, RUNS).find_one({"_id": run_id}, {"attempt": 1, "leaseToken": 1})
    if found is None:
        return None
    attempt = found.get("attempt")
    return RunOwner(attempt if isinstance(attempt, int) else 0, bool(found.get("leaseToken")))


def is_owned_by(database: Mongo, writer: RunWriter) -> bool:
    """Whether the writer's fence still stands.

    For an unleased run it says whether the run is still unleased.
    """
    return tolerant_rows(database, RUNS).find_one(_writer_filter(writer), {"_id": 1}) is not None


def register(database: Mongo, artifact_id: str, writer: RunWriter, artifact: Artifact) -> ArtifactRow | None:
    """Record a verified artifact; None when the writer no longer owns the run.

    Nothing was written then. Idempotent.

    Raises KeyDoomedError: a sweep deletes the object under this key.
    """

    def write(session: ClientSession) -> bool:
        # A real write on the run, so that a claim in the same moment conflicts with it instead of passing by.
        published_at = _stamp_run(database, writer, session)
        if published_at is None:
            return False
        database[ARTIFACTS].update_one(
            {"_id": artifact_id}, _row_update(writer, artifact, published_at), upsert=True, session=session
        )
        artifact_keys.mark_registered(database, artifact.key, session)
        return True

    with database.client.start_session() as session:
        if not session.with_transaction(write, write_concern=WriteConcern("majority")):
            return None
    return verified(database, artifact_id)


def verified(database: Mongo, artifact_id: str) -> ArtifactRow | None:
    """The registered artifact with this id; an unverified row does not count."""
    found = tolerant_rows(database, ARTIFACTS).find_one({"_id": artifact_id, "verifiedAt": {"$type": "date"}})
    return row_from(found) if found else None


def publish_again(database: Mongo, artifact_id: str, writer: RunWriter) -> ArtifactRow | None:
    """Count a registered artifact as the run's last published one from now on.

    None when the writer no longer owns the run, or the artifact was removed meanwhile.
    """
    published_at = _stamp_run(database, writer)
    if published_at is None:
        return None
    found = tolerant_rows(database, ARTIFACTS).find_one_and_update(
        {"_id": artifact_id, "verifiedAt": {"$type": "date"}},
        {"$set": {"publishedAt": published_at}},
        return_document=ReturnDocument.AFTER,
    )
    return row_from(found) if found else None


def verified_at_key(database: Mongo, key: str) -> ArtifactRow | None:
    """What is registered under a key.

    Such an object must never be overwritten or removed.
    """
    found = tolerant_rows(database, ARTIFACTS).find_one({"key": key, "verifiedAt": {"$type": "date"}})
    return row_from(found) if found else None


def at_key(database: Mongo, key: str) -> ArtifactRow | None:
    """The row of a key, the registered one first."""
    found = database[ARTIFACTS].find_one({"key": key, "removedAt": None}, sort=[("verifiedAt", DESCENDING)])
    return row_from(found) if found else None


def conflicting_key(database: Mongo, key: str) -> str | None:
    """A registered key that is a folder of `key`, or has `key` as a folder.

    A file cannot be both.
    """
    parts = key.split("/")
    folders = ["/".join(parts[:count]) for count in range(4, len(parts))]  # runs/<run>/<attempt>/<name>, and below
    below = {"$gte": f"{key}/", "$lt": f"{key}0"}  # "0" comes right after "/"
    for condition in ({"$in": folders}, below):
        found = tolerant_rows(database, ARTIFACTS).find_one(
            {"key": condition, "verifiedAt": {"$type": "date"}}, {"key": 1}
        )
        if found is not None:
            return str(found["key"])
    return None


def of_run(database: Mongo, run_id: str, limit: int = LIST_LIMIT) -> list[ArtifactRow]:
    """Oldest first."""
    found = (
        tolerant_rows(database, ARTIFACTS)
        .find({"runId": run_id, "removedAt": None})
        .sort([("createdAt", 1), ("_id", 1)])
        .limit(limit)
    )
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


def _writer_filter(writer: RunWriter) -> Document:
    return fence_filter(writer) if isinstance(writer, Fence) else unleased_filter(writer.run_id)


def _stamp_run(database: Mongo, writer: RunWriter, session: ClientSession | None = None) -> datetime | None:
    """The moment of this publication, later than every earlier one of the run.

    This holds also when the server's clock jumps.

    None when the writer no longer owns the run.
    """
    last_is_date = {"$eq": [{"$type": "$lastArtifactAt"}, "date"]}
    after_last = {"$cond": [last_is_date, {"$add": ["$lastArtifactAt", 1]}, None]}
    stamped = tolerant_rows(database, RUNS).find_one_and_update(
        _writer_filter(writer),
        [{"$set": {"lastArtifactAt": {"$max": ["$$NOW", after_last]}}}],
        projection={"lastArtifactAt": 1},
        return_document=ReturnDocument.AFTER,
        session=session,
    )
    return stamped["lastArtifactAt"] if stamped else None


def _row_update(writer: RunWriter, artifact: Artifact, published_at: datetime) -> list[Document]:
    fields: dict[str, Json] = {
        "runId": writer.run_id,
        "key": artifact.key,
        "bytes": artifact.bytes,
        "sha256": artifact.sha256,
        "kind": artifact.kind,
        "contentType": artifact.content_type,
        "attempt": writer.attempt,
    }
    if artifact.role is not None:
        fields["role"] = artifact.role
    # $literal: a name may begin with a dollar sign, and this is an aggregation pipeline.
    update: Document = {name: {"$literal": value} for name, value in fields.items()}
    update["createdAt"] = {"$ifNull": ["$createdAt", "$$NOW"]}
    update["verifiedAt"] = {"$ifNull": ["$verifiedAt", "$$NOW"]}
    update["publishedAt"] = {"$literal": published_at}
    update["removedAt"] = "$$REMOVE"
    return [{"$set": update}]
