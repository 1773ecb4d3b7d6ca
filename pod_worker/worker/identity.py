"""Who a worker is: its ids, its hardware, and what it claims.

Built once; the store's records derive from it.
"""

from __future__ import annotations

from dataclasses import dataclass

from pod_worker.core.worker_offer import WorkerOffer
from pod_worker.store.queue.run_queue import ClaimingWorker
from pod_worker.store.worker_registry import WorkerInfo
from pod_worker.worker.machine import Gpu


@dataclass(frozen=True, slots=True)
class WorkerIdentity:
    """One process incarnation of a worker."""

    worker_id: str
    pod_id: str
    mode: str
    queues: tuple[str, ...]
    pipelines: tuple[str, ...]
    version: str = ""
    host: str = ""
    pid: int = 0
    gpus: tuple[Gpu, ...] = ()
    region: str | None = None
    image: str | None = None

    @property
    def gpu(self) -> str | None:
        """The name of the first GPU."""
        return self.gpus[0].name if self.gpus else None

    def claiming_worker(self, offer: WorkerOffer) -> ClaimingWorker:
        return ClaimingWorker(
            worker_id=self.worker_id,
            pod_id=self.pod_id,
            queues=self.queues,
            pipelines=self.pipelines,
            gpu=self.gpu,
            offer=offer,
        )

    def registered(self, offer: WorkerOffer) -> WorkerInfo:
        """The entry in the registry of workers."""
        return WorkerInfo(
            self.worker_id,
            self.pod_id,
            self.mode,
            self.version,
            self.host,
            self.pid,
            self.gpu,
            self.queues,
            offer,
        )
