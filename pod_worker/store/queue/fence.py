"""The filter of every write of an attempt; built here and nowhere else."""

from __future__ import annotations

from pod_worker.core.lease import Fence
from pod_worker.store.mongo import Document


def fence_filter(fence: Fence) -> Document:
    """Matches the run only while this attempt holds its lease."""
    return {"_id": fence.run_id, "attempt": fence.attempt, "leaseToken": fence.token}


def unleased_filter(run_id: str) -> Document:
    """Matches the run only while no worker holds it.

    Its lease token is missing or null.
    """
    return {"_id": run_id, "leaseToken": None}
