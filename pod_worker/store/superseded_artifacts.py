"""Which checkpoints of a run nothing needs any more, and their removal.

The run document decides. A rotated checkpoint is superseded when no saved state of its run names it, and names one
that was published later. So a checkpoint that is published and not yet named is kept, whatever crashes in between,
and an attempt that lost its run can supersede nothing, because it cannot write the document.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from pymongo import ASCENDING, IndexModel
from pymongo.client_session import ClientSession
from pymongo.write_concern import WriteConcern

from pod_worker.core.run import Json
from pod_worker.core.stage import ROTATED_ROLE, ArtifactKind
from pod_worker.store import artifact_keys
from pod_worker.store.collections import ARTIFACTS, RUNS
from pod_worker.store.mongo import Document, Mongo, tolerant_rows

INDEXES: dict[str, list[IndexModel]] = {
    ARTIFACTS: [
        IndexModel(
            [("role", ASCENDING), ("runId", ASCENDING)],
            name="rotated",
            partialFilterExpression={"role": ROTATED_ROLE},
        ),
    ]
}

_ROTATED: Document = {
    "role": ROTATED_ROLE,
    "kind": ArtifactKind.CHECKPOINT.value,
    "verifiedAt": {"$type": "date"},
    "publishedAt": {"$type": "date"},
}


@dataclass(frozen=True, slots=True)
class RotatedCheckpoint:
    """A registered checkpoint of a run that its stage rotates."""

    id: str
    run_id: str
    key: str
    published_at: datetime


def find_superseded(database: Mongo) -> Iterator[RotatedCheckpoint]:
    """Of every run, oldest first."""
    for run_id in _runs_with_several(database):
        yield from _superseded_of_run(database, run_id)


def remove(database: Mongo, checkpoint: RotatedCheckpoint) -> bool:
    """Take it out of the registry and doom its key, in one transaction.

    False: it was published again meanwhile.

    The key is spared where another registered artifact has it: the same bytes of another kind are one object.
    """

    def write(session: ClientSession) -> bool:
        rows = database[ARTIFACTS]
        unchanged = {"_id": checkpoint.id, **_ROTATED, "publishedAt": checkpoint.published_at}
        update: list[Document] = [{"$set": {"removedAt": "$$NOW"}}, {"$unset": "verifiedAt"}]
        if not rows.update_one(unchanged, update, session=session).matched_count:
            return False
        same_object = {"key": checkpoint.key, "verifiedAt": {"$type": "date"}}
        if rows.find_one(same_object, {"_id": 1}, session=session) is None:
            artifact_keys.doom(database, checkpoint.key, checkpoint.run_id, session)
        return True

    with database.client.start_session() as session:
        return bool(session.with_transaction(write, write_concern=WriteConcern("majority")))


def _runs_with_several(database: Mongo) -> list[str]:
    """Ids of the runs with more than one rotated checkpoint.

    A single one is never superseded.
    """
    steps: list[Document] = [
        {"$match": {**_ROTATED, "runId": {"$type": "string"}}},
        {"$group": {"_id": "$runId", "count": {"$sum": 1}}},
        {"$match": {"count": {"$gt": 1}}},
        {"$sort": {"_id": 1}},
    ]
    return [str(group["_id"]) for group in tolerant_rows(database, ARTIFACTS).aggregate(steps)]


def _superseded_of_run(database: Mongo, run_id: str) -> list[RotatedCheckpoint]:
    # The rows before the document: a checkpoint that is registered after this read is not looked at.
    rows = tolerant_rows(database, ARTIFACTS).find({**_ROTATED, "runId": run_id})
    found = [_checkpoint(row) for row in rows if isinstance(row["publishedAt"], datetime)]
    run = tolerant_rows(database, RUNS).find_one({"_id": run_id}, {"checkpoints": 1}) or {}
    named = set(texts_in(run.get("checkpoints")))
    newest = max((each.published_at for each in found if each.key in named), default=None)
    if newest is None:
        return []
    own = f"runs/{run_id}/"
    superseded = [each for each in found if each.key not in named and each.key.startswith(own)]
    return sorted((each for each in superseded if each.published_at < newest), key=lambda each: each.published_at)


def _checkpoint(row: Document) -> RotatedCheckpoint:
    return RotatedCheckpoint(str(row["_id"]), str(row["runId"]), str(row.get("key", "")), row["publishedAt"])


def texts_in(value: Json) -> Iterator[str]:
    """Every text in a saved state, at any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from texts_in(each)
    elif isinstance(value, list):
        for each in value:
            yield from texts_in(each)
