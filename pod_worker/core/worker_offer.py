"""What a worker offers to runs, and which requirements of a run it does not meet.

The rule exists twice: here for people, in `store.queue.claiming` as a query. A test compares them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pod_worker.core.run import Requirements


@dataclass(frozen=True, slots=True)
class WorkerOffer:
    """The GPUs of the worker, and what it may use of the machine.

    A run sees all GPUs of its worker. So each must meet a requirement: the smallest one the lower bound of its
    memory, the largest one the upper bound, and all of them the name. An infinite amount was not measured.
    """

    gpu_names: tuple[str, ...] = ()  # names that every GPU answers to
    gpu_count: int = 0
    smallest_vram_gb: float = 0.0
    largest_vram_gb: float = 0.0
    cpus: float = math.inf
    memory_gb: float = math.inf
    disk_gb: float = math.inf  # free when it was measured
    region: str | None = None


# Fields of Requirements that are lower bounds, and the fields of WorkerOffer that they bound.
LOWER_BOUNDS = {
    "min_vram_gb": "smallest_vram_gb",
    "gpu_count": "gpu_count",
    "cpus": "cpus",
    "memory_gb": "memory_gb",
    "disk_gb": "disk_gb",
}


def unmet_requirements(needs: Requirements, offer: WorkerOffer) -> frozenset[str]:
    """The names of the fields of `needs` that the offer does not meet."""
    unmet = {
        need
        for need, field in LOWER_BOUNDS.items()
        if (least := getattr(needs, need)) is not None and least > getattr(offer, field)
    }
    if needs.max_vram_gb is not None and needs.max_vram_gb < offer.largest_vram_gb:
        unmet.add("max_vram_gb")
    if needs.gpu is not None and needs.gpu not in offer.gpu_names:
        unmet.add("gpu")
    if needs.region is not None and needs.region != offer.region:
        unmet.add("region")
    return frozenset(unmet)
