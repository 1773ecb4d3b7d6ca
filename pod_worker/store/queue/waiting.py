"""Where a waiting run stands in its queue: why it does not start."""

from __future__ import annotations

from pod_worker.core.run import Run
from pod_worker.store.collections import RUNS
from pod_worker.store.mongo import Document, Mongo

COUNT_LIMIT = 1000


def count_runs_ahead(database: Mongo, run: Run) -> int:
    """How many runs of its queue are claimed before this one; at most COUNT_LIMIT."""
    if run.queued_at is None:
        return 0
    before: Document = {
        "status": "QUEUED",
        "queue": run.queue,
        "$or": [
            {"priority": {"$gt": run.priority}},
            {"priority": run.priority, "queuedAt": {"$lt": run.queued_at}},
        ],
    }
    return database[RUNS].count_documents(before, limit=COUNT_LIMIT)
