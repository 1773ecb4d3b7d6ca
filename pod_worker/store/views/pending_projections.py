"""Which runs have events in the log that may not be in their views yet, for whoever must finish after a crash.

An ingest process notes a run here *before* it acknowledges the first event that it has not projected, and takes
the note back when the views are up to date. A note that nobody renewed is a process that died: any other one
replays that run from `since` on. So projecting may happen later than storing and still nothing is forgotten.
Why the two are apart: docs/decisions/007-views-follow-the-log.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from pymongo import ASCENDING, DeleteOne, IndexModel, UpdateOne

from pod_worker.store.collections import PENDING_PROJECTIONS
from pod_worker.store.mongo import Document, Mongo

INDEXES: dict[str, list[IndexModel]] = {PENDING_PROJECTIONS: [IndexModel([("seenAt", ASCENDING)], name="seen")]}


@dataclass(frozen=True, slots=True)
class PendingProjection:
    """`since`: the position in the event log of the first event that may be missing from the run's views."""

    id: str
    run_id: str
    since: int
    seen_at: datetime


class PendingProjections:
    """Of one process, named `owner`. Each method is one round trip; raises PyMongoError."""

    def __init__(self, database: Mongo, owner: str) -> None:
        self._debts = database[PENDING_PROJECTIONS]
        self._owner = owner

    def mark(self, since: Mapping[str, int]) -> None:
        """run id -> since. Also renews."""
        if since:
            self._debts.bulk_write([self._noted(run_id, position) for run_id, position in since.items()])

    def clear(self, since: Mapping[str, int]) -> None:
        """Take back what was noted with these positions; a note made in the meantime has a later one and stays."""
        if since:
            paid = [DeleteOne({"_id": self._id(run_id), "since": at}) for run_id, at in since.items()]
            self._debts.bulk_write(paid, ordered=False)

    def abandoned(self, older_than_seconds: float) -> list[PendingProjection]:
        """What nobody has renewed for so long, by the server's clock."""
        latest = {"$subtract": ["$$NOW", int(older_than_seconds * 1000)]}
        found = self._debts.find({"$expr": {"$lt": ["$seenAt", latest]}})
        return [
            PendingProjection(str(each["_id"]), str(each["runId"]), int(each["since"]), each["seenAt"])
            for each in found
        ]

    def discard(self, debt: PendingProjection) -> None:
        """Paid by somebody else, unless its owner came back."""
        self._debts.delete_one({"_id": debt.id, "seenAt": debt.seen_at})

    def _noted(self, run_id: str, position: int) -> UpdateOne:
        values: Document = {"owner": self._owner, "runId": {"$literal": run_id}, "since": position}
        return UpdateOne({"_id": self._id(run_id)}, [{"$set": values | {"seenAt": "$$NOW"}}], upsert=True)

    def _id(self, run_id: str) -> str:
        return f"{self._owner}:{run_id}"
