"""How many runs wait and run, counted from covered indexes."""

from __future__ import annotations

from dataclasses import dataclass, field

from pymongo import ASCENDING, IndexModel

from pod_worker.core.run import Json
from pod_worker.store.collections import RUNS
from pod_worker.store.mongo import Document, Mongo, tolerant_rows
from pod_worker.store.queue.run_queue import ACTIVE_STATES

EXPIRING_SECONDS = 15

INDEXES: dict[str, list[IndexModel]] = {
    RUNS: [
        IndexModel([("status", ASCENDING), ("queue", ASCENDING), ("queuedAt", ASCENDING)], name="depth"),
    ]
}


@dataclass(frozen=True, slots=True)
class QueueStats:
    by_status: dict[str, int] = field(default_factory=dict)
    by_queue: dict[str, dict[str, int]] = field(default_factory=dict)  # queue -> status -> count
    oldest_queued_seconds: dict[str, float] = field(default_factory=dict)  # queue -> age, by the server's clock
    leases_live: int = 0
    leases_expiring: int = 0  # expired, or expiring within EXPIRING_SECONDS


class QueueStatsReader:
    def __init__(self, database: Mongo) -> None:
        self._runs = tolerant_rows(database, RUNS)

    def read(self) -> QueueStats:
        """Three queries, each answered from an index."""
        by_status: dict[str, int] = {}
        by_queue: dict[str, dict[str, int]] = {}
        oldest: dict[str, float] = {}
        for row in self._runs.aggregate(_COUNTS):
            status, queue = _word(row["_id"].get("status")), _word(row["_id"].get("queue"))
            by_status[status] = by_status.get(status, 0) + row["count"]
            of_queue = by_queue.setdefault(queue, {})
            of_queue[status] = of_queue.get(status, 0) + row["count"]
            if status == "QUEUED" and isinstance(row.get("age"), int | float):
                oldest[queue] = max(0.0, row["age"] / 1000, oldest.get(queue, 0.0))
        live, expiring = self._leases()
        return QueueStats(by_status, by_queue, oldest, live, expiring)

    def _leases(self) -> tuple[int, int]:
        held: Document = {"status": {"$in": ACTIVE_STATES}, "leaseExpiresAt": {"$type": "date"}}
        soon = {"$expr": {"$lt": ["$leaseExpiresAt", {"$add": ["$$NOW", EXPIRING_SECONDS * 1000]}]}}
        return self._runs.count_documents(held), self._runs.count_documents(held | soon)


_QUEUED_AT: Document = {"$cond": [{"$eq": [{"$type": "$queuedAt"}, "date"]}, "$queuedAt", None]}
_COUNTS: list[Document] = [
    {"$match": {"status": {"$gte": ""}}},
    {
        "$group": {
            "_id": {"status": "$status", "queue": "$queue"},
            "count": {"$sum": 1},
            "oldest": {"$min": _QUEUED_AT},  # skips null
        }
    },
    {"$addFields": {"age": {"$subtract": ["$$NOW", "$oldest"]}}},
]


def _word(value: Json) -> str:
    return value if isinstance(value, str) else "?"
