"""Free GPUs per type, data center and cloud, and the placement of a pod.

Counts start from the catalogue; pods take and release GPUs. Shortages injected by fault rules are passed in as a
predicate.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pod_worker.fake_runpod.cloud.catalogue import Catalogue

LEVELS = ((50, "HIGH"), (10, "MEDIUM"), (1, "LOW"), (0, "NONE"))
IsUnavailable = Callable[[str, str, str], bool]
"""Whether a fault rule excludes (GPU or CPU id, data center, cloud)."""


@dataclass(frozen=True, slots=True)
class Placement:
    resource_id: str
    data_center_id: str
    cloud: str


class GpuInventory:
    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._taken: Counter[Placement] = Counter()

    def free(self, at: Placement) -> int:
        gpu = self._catalogue.gpus.get(at.resource_id)
        if gpu is None or at.cloud not in gpu.price_nano:
            return 0
        return max(0, self._catalogue.gpus_per_data_center - self._taken[at])

    def take(self, at: Placement, count: int) -> None:
        self._taken[at] += count

    def release(self, at: Placement, count: int) -> None:
        self._taken[at] -= count
        if not self._taken[at]:
            del self._taken[at]

    def level(
        self, gpu_id: str, data_center_id: str, cloud: str, count: int, is_unavailable: IsUnavailable
    ) -> str:
        """NONE, LOW, MEDIUM or HIGH: how many machines of `count` GPUs are left there."""
        gpu = self._catalogue.gpus[gpu_id]
        if count > gpu.max_count[cloud] or is_unavailable(gpu_id, data_center_id, cloud):
            return "NONE"
        machines = self.free(Placement(gpu_id, data_center_id, cloud)) // count
        return next(word for floor, word in LEVELS if machines >= floor)

    def place_gpu(
        self,
        gpu_ids: Sequence[str],
        clouds: Sequence[str],
        data_center_ids: Sequence[str],
        count: int,
        is_unavailable: IsUnavailable,
        rng: random.Random,
    ) -> Placement | None:
        """The first wanted GPU type and cloud that any wanted data center can host.

        None = no capacity.

        Without a requested data center one is drawn at random, so an unpinned pod may start where a pinned one
        fails.
        """
        anywhere = not data_center_ids
        for gpu_id in gpu_ids:
            gpu = self._catalogue.gpus[gpu_id]
            for cloud in clouds:
                if count > gpu.max_count[cloud]:
                    continue
                wanted = data_center_ids or self._catalogue.data_center_ids
                options = [Placement(gpu_id, dc, cloud) for dc in wanted if not is_unavailable(gpu_id, dc, cloud)]
                fits = [option for option in options if self.free(option) >= count]
                if fits:
                    return rng.choice(fits) if anywhere else fits[0]
        return None
