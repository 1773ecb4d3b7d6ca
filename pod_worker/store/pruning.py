"""Deletes old runs with all that belongs to them, and rows without a run.

A run is condemned first: one write checks the whole condition again and marks the run, after which it can be
neither reset nor claimed. The run itself goes last, so that an interrupted deletion is found by the next prune.
Only objects that were verified for the run are deleted from the object store: a row that an event wrote may name
the object of another run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from pod_worker.core.run import TERMINAL, Json
from pod_worker.store import artifact_keys
from pod_worker.store.collections import ARTIFACTS, EVENTS, METRICS, PENDING_PROJECTIONS, RUNS, STAGES, VALIDATIONS
from pod_worker.store.document_fields import text
from pod_worker.store.mongo import Document, Mongo, tolerant_rows

RUN_COLLECTIONS = (EVENTS, METRICS, STAGES, VALIDATIONS, ARTIFACTS, PENDING_PROJECTIONS)
MICROSECONDS = 1_000_000

DeleteObject = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Pruned:
    runs: int = 0  # or orphaned run ids
    documents: int = 0
    objects: int = 0

    def __add__(self, other: Pruned) -> Pruned:
        return Pruned(self.runs + other.runs, self.documents + other.documents, self.objects + other.objects)


class RunPruner:
    """Deletes runs and rows.

    `delete_object` removes the bytes under a key; without it, objects stay in the object store.
    """

    def __init__(self, database: Mongo) -> None:
        self._database = database
        self._runs = tolerant_rows(database, RUNS)

    def find(self, statuses: Sequence[str], before: datetime) -> list[Json]:
        """Ids of the runs in these states that ended before then.

        Runs that a prune has condemned are among them.
        """
        wanted = {"$or": [_prunable_filter(statuses, before), {"condemnedAt": {"$type": "date"}}]}
        return [run["_id"] for run in self._runs.find(wanted, {"_id": 1})]

    def delete(
        self,
        run_ids: Sequence[Json],
        statuses: Sequence[str],
        before: datetime,
        delete_object: DeleteObject | None,
    ) -> Pruned:
        """Delete those of the runs that still match.

        Repeatable; an error leaves a run condemned.
        """
        total = Pruned()
        for run_id in run_ids:
            if self._condemn(run_id, statuses, before):
                total += self._delete_rows(run_id, delete_object)
                total += Pruned(1, self._runs.delete_one(_condemned(run_id)).deleted_count)
        return total

    def orphans(self, before: datetime) -> list[str]:
        """Run ids that rows name although no such run exists, without recent events."""
        found = {run_id for name in RUN_COLLECTIONS for run_id in self._run_ids_without_run(name)}
        return sorted(run_id for run_id in found if not self._has_event_since(run_id, before))

    def delete_orphans(self, run_ids: Sequence[str], delete_object: DeleteObject | None) -> Pruned:
        """Delete the rows of these runs, unless such a run was inserted meanwhile."""
        total = Pruned()
        for run_id in run_ids:
            if self._runs.find_one({"_id": run_id}, {"_id": 1}) is None:
                total += self._delete_rows(run_id, delete_object) + Pruned(1)
        return total

    def _condemn(self, run_id: Json, statuses: Sequence[str], before: datetime) -> bool:
        wanted = {"$or": [_prunable_filter(statuses, before), _condemned(run_id)]}
        mark = [{"$set": {"condemnedAt": {"$ifNull": ["$condemnedAt", "$$NOW"]}, "hidden": True}}]
        return self._runs.update_one({"$and": [{"_id": run_id}, wanted]}, mark).matched_count == 1

    def _delete_rows(self, run_id: Json, delete_object: DeleteObject | None) -> Pruned:
        objects = 0
        if delete_object is not None:
            for key in self._verified_keys(run_id):
                delete_object(key)
                objects += 1
        documents = sum(
            self._database[name].delete_many({"runId": run_id}).deleted_count for name in RUN_COLLECTIONS
        )
        artifact_keys.forget_registered(self._database, run_id)
        return Pruned(documents=documents, objects=objects)

    def _verified_keys(self, run_id: Json) -> Iterator[str]:
        """Keys of verified artifacts that lie under the run's own prefix."""
        verified = {"runId": run_id, "verifiedAt": {"$type": "date"}}
        for row in tolerant_rows(self._database, ARTIFACTS).find(verified, {"key": 1}):
            key = text(row, "key") or ""
            if key.split("/", 3)[:2] == ["runs", run_id]:
                yield key

    def _run_ids_without_run(self, collection: str) -> Iterator[str]:
        rows = tolerant_rows(self._database, collection)
        steps: list[Document] = [
            {"$group": {"_id": "$runId"}},
            {"$lookup": {"from": RUNS, "localField": "_id", "foreignField": "_id", "as": "runs"}},
            {"$match": {"runs": []}},
        ]
        return (group["_id"] for group in rows.aggregate(steps) if isinstance(group["_id"], str))

    def _has_event_since(self, run_id: str, moment: datetime) -> bool:
        position = int(moment.timestamp() * MICROSECONDS)
        wanted = {"runId": run_id, "position": {"$gte": position}}
        return self._database[EVENTS].find_one(wanted, {"_id": 1}) is not None


def _condemned(run_id: Json) -> Document:
    return {"_id": run_id, "condemnedAt": {"$type": "date"}}


def _prunable_filter(statuses: Sequence[str], before: datetime) -> Document:
    """Ended before then, in one of these states, without a lease."""
    return {
        "status": {"$in": [status for status in statuses if status in TERMINAL]},
        "leaseToken": None,
        # For the index: a run ends after it was created.
        "$or": [{"createdAt": {"$lt": before}}, {"createdAt": None}],
        "$expr": {"$and": [{"$eq": [{"$type": _ENDED_AT}, "date"]}, {"$lt": [_ENDED_AT, before]}]},
    }


def _date_or_null(field: str) -> Document:
    return {"$cond": [{"$eq": [{"$type": f"${field}"}, "date"]}, f"${field}", None]}


# The last of its dates; one of another type counts as none.
_ENDED_AT: Document = {
    "$max": [_date_or_null(field) for field in ("completedAt", "failedAt", "canceledAt", "createdAt")]
}
