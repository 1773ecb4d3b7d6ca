"""Deleting old runs with everything they left: views, events, metrics, artifacts.

The run goes last, so that an interrupted deletion is found again by the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from pod_worker.core.run import TERMINAL
from pod_worker.store.collections import ARTIFACTS, EVENTS, METRICS, RUNS, STAGES, VALIDATIONS
from pod_worker.store.mongo import Document, Mongo

RUN_COLLECTIONS = (EVENTS, METRICS, STAGES, VALIDATIONS, ARTIFACTS)
BATCH = 200


class RunPruner:
    def __init__(self, database: Mongo) -> None:
        self._database = database

    def find(self, statuses: Sequence[str], before: datetime) -> list[str]:
        """Ended runs that were created before then and are in one of these states; a live one never is."""
        ended = [status for status in statuses if status in TERMINAL]
        condition: Document = {
            "status": {"$in": ended},
            "createdAt": {"$lt": before},
            "leaseToken": {"$exists": False},
        }
        return [str(each["_id"]) for each in self._database[RUNS].find(condition, {"_id": 1})]

    def delete(self, run_ids: Sequence[str], delete_object: Callable[[str], None] | None) -> int:
        """Returns how many documents are gone. `delete_object` removes an artifact's bytes from the store."""
        removed = 0
        for start in range(0, len(run_ids), BATCH):
            ids = {"$in": list(run_ids[start : start + BATCH])}
            if delete_object is not None:
                for artifact in self._database[ARTIFACTS].find({"runId": ids}, {"key": 1}):
                    delete_object(artifact["key"])
            for name in RUN_COLLECTIONS:
                removed += self._database[name].delete_many({"runId": ids}).deleted_count
            removed += self._database[RUNS].delete_many({"_id": ids}).deleted_count
        return removed
