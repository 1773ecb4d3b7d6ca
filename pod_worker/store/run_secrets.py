"""The sealed secrets of a run: read for its current attempt, or for a copy."""

from __future__ import annotations

from pod_worker.core.lease import Fence
from pod_worker.store.collections import RUNS
from pod_worker.store.mongo import Document, Mongo, tolerant_rows
from pod_worker.store.queue.fence import fence_filter

FIELD = "sealedSecrets"


def of_attempt(database: Mongo, fence: Fence) -> dict[str, str] | None:
    """Sealed texts by name; None where the attempt does not hold the run."""
    found = tolerant_rows(database, RUNS).find_one(fence_filter(fence), {FIELD: 1})
    return None if found is None else _texts(found)


def of_run(database: Mongo, run_id: str) -> dict[str, str]:
    """For a copy of the run: sealed texts by name."""
    return _texts(tolerant_rows(database, RUNS).find_one({"_id": run_id}, {FIELD: 1}) or {})


def _texts(document: Document) -> dict[str, str]:
    sealed = document.get(FIELD)
    return {str(name): str(text) for name, text in sealed.items()} if isinstance(sealed, dict) else {}
