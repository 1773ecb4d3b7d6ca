"""Write-ahead markers of unfinished projections.

An ingest process writes a marker before it acknowledges the first event of a run that it has not projected, and
deletes it when the views are up to date. A marker that was not renewed belongs to a dead process: another one
replays that run from `since` on. So events may be projected after they are stored, and none is forgotten.
Why storing and projecting are separate: docs/decisions/007-views-follow-the-log.md.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from pymongo import ASCENDING, DeleteOne, IndexModel, UpdateOne

from pod_worker.core.identifiers.row_id import row_id
from pod_worker.core.run import Json
from pod_worker.store.collections import PENDING_PROJECTIONS
from pod_worker.store.document_fields import integer, text
from pod_worker.store.mongo import Document, Mongo, tolerant_rows

log = logging.getLogger(__name__)

INDEXES: dict[str, list[IndexModel]] = {PENDING_PROJECTIONS: [IndexModel([("seenAt", ASCENDING)], name="seen")]}


@dataclass(frozen=True, slots=True)
class PendingProjection:
    """A marker.

    `since`: the position in the event log of the first event that may be missing from the run's views.
    """

    id: Json
    run_id: str
    since: int
    seen_at: Json


class PendingProjections:
    """The markers of one process, named `owner`.

    Each method is one round trip and raises PyMongoError.
    """

    def __init__(self, database: Mongo, owner: str) -> None:
        self._rows = tolerant_rows(database, PENDING_PROJECTIONS)
        self._owner = owner

    def mark(self, since: Mapping[str, int]) -> None:
        """Write or renew the markers; `since` maps run ids to positions."""
        if since:
            self._rows.bulk_write([self._upsert(run_id, position) for run_id, position in since.items()])

    def clear(self, since: Mapping[str, int]) -> None:
        """Delete the markers with these positions.

        One that was written meanwhile has a later one and stays.
        """
        if since:
            deletes = [DeleteOne({"_id": self._id(run_id), "since": at}) for run_id, at in since.items()]
            self._rows.bulk_write(deletes, ordered=False)

    def abandoned(self, older_than_seconds: float) -> list[PendingProjection]:
        """Markers that were not renewed for so long, by the server's clock."""
        latest = {"$subtract": ["$$NOW", int(older_than_seconds * 1000)]}
        found = self._rows.find({"$expr": {"$lt": ["$seenAt", latest]}})
        return [pending for row in found if (pending := self._pending(row))]

    def discard(self, pending: PendingProjection) -> None:
        """Delete a marker whose run was replayed, unless its owner renewed it."""
        self._rows.delete_one({"_id": pending.id, "seenAt": {"$eq": pending.seen_at}})

    def _pending(self, row: Document) -> PendingProjection | None:
        """A position of another type reads as 0: the whole run is replayed."""
        run_id = text(row, "runId")
        if run_id is None:
            log.warning("the marker %r of a projection names no run; it is deleted", row["_id"])
            self._rows.delete_one({"_id": row["_id"]})
            return None
        return PendingProjection(row["_id"], run_id, max(0, integer(row.get("since")) or 0), row.get("seenAt"))

    def _upsert(self, run_id: str, position: int) -> UpdateOne:
        values: Document = {"owner": self._owner, "runId": {"$literal": run_id}, "since": position}
        return UpdateOne({"_id": self._id(run_id)}, [{"$set": values | {"seenAt": "$$NOW"}}], upsert=True)

    def _id(self, run_id: str) -> str:
        return row_id(self._owner, run_id)
