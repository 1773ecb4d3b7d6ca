"""Which runs a worker tries to claim, in which order.

It reads only; `run_queue` claims.

A look at the head of the queue takes no lock. Where races are lost, claimers spread out (`contention`), so that
they touch different documents instead of retrying the same one. SERVER-133243 shows what findAndModify with a
sort does under contention.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from pymongo import ASCENDING, DESCENDING
from pymongo.read_concern import ReadConcern

from pod_worker.core.clock import Clock
from pod_worker.core.run import RunStatus
from pod_worker.core.worker_offer import WorkerOffer
from pod_worker.store.mongo import Document, Rows
from pod_worker.store.queue.contention import BATCH, CACHE_SECONDS, ClaimContention, QueuedRun

CLAIM_SORT = [("priority", DESCENDING), ("queuedAt", ASCENDING), ("_id", ASCENDING)]
CLAIM_TRIES = 2  # batches tried after one look; later ones are too old
MAX_LOOKS = 4  # lost races in a row before a claimer waits for its next poll


@dataclass(frozen=True, slots=True)
class ClaimingWorker:
    """Who claims, and what it can execute."""

    worker_id: str  # one per process incarnation, never the pod's id
    pod_id: str
    queues: tuple[str, ...]
    pipelines: tuple[str, ...]
    gpu: str | None = None
    offer: WorkerOffer = field(default_factory=WorkerOffer)


class ClaimCandidates:
    """The batches of run ids that one claimer tries."""

    def __init__(self, runs: Rows, queues: Rows, clock: Clock, rng: random.Random) -> None:
        # Majority reads lag by a journal write and show runs that are gone already.
        self._runs = runs.with_options(read_concern=ReadConcern("local"))
        self._queues = queues
        self._clock = clock
        self._contention = ClaimContention(clock, rng)
        self._paused: frozenset[str] = frozenset()
        self._paused_at = float("-inf")

    def batches(self, wanted: Document) -> Iterator[list[str]]:
        """Ids to try in one statement each.

        It ends when nothing is left, or after MAX_LOOKS lost races.

        The caller reports each result with `record_result` before it asks for the next batch.
        """
        if batch := self._contention.next_batch():
            yield batch
        for _ in range(MAX_LOOKS):
            look_ahead = self._contention.look_ahead
            seen = self._look(wanted, look_ahead)
            self._contention.observe(seen)
            for _ in range(CLAIM_TRIES):
                if batch := self._contention.next_batch():
                    yield batch
            if len(seen) < min(look_ahead, BATCH):
                return

    def record_result(self, batch: list[str], run_id: str | None) -> None:
        self._contention.record_result(batch, run_id)

    def is_claimable(self, wanted: Document, run_id: str) -> bool:
        """Whether this one run can be claimed now."""
        return bool(self._look(wanted | {"_id": run_id}, 1))

    def paused(self) -> frozenset[str]:
        """The names of the queues that no worker may claim from."""
        return frozenset(str(queue["_id"]) for queue in self._queues.find({"paused": True}, {"_id": 1}))

    def _look(self, wanted: Document, limit: int) -> list[QueuedRun]:
        """The first claimable runs of queues that are not paused."""
        found = self._find(wanted, limit)
        if not found:
            return []
        paused = self._paused_cached()
        if any(isinstance(run["queue"], str) and run["queue"] in paused for run in found):
            # Asked again without them: a long paused queue must not hide the others.
            open_queues = [name for name in wanted["queue"]["$in"] if name not in paused]
            found = self._find(wanted | {"queue": {"$in": open_queues}}, limit)
        return [QueuedRun(run["_id"], run.get("priority")) for run in found]

    def _paused_cached(self) -> frozenset[str]:
        """Read at each look, under contention at most once in CACHE_SECONDS."""
        now = self._clock.monotonic()
        if not self._contention.is_contended or now - self._paused_at >= CACHE_SECONDS:
            self._paused, self._paused_at = self.paused(), now
        return self._paused

    def _find(self, wanted: Document, limit: int) -> list[Document]:
        fields = {"_id": 1, "queue": 1, "priority": 1}
        return list(self._runs.find(wanted, fields).sort(CLAIM_SORT).limit(limit))


def claimable_filter(worker: ClaimingWorker) -> Document:
    """Matches the queued runs that this worker may execute now.

    Its part about requirements is `core.worker_offer.unmet_requirements` as a query.
    """
    offer = worker.offer
    return {
        "status": RunStatus.QUEUED.value,
        "queue": {"$in": list(worker.queues)},
        "pipeline": {"$in": list(worker.pipelines)},
        "hidden": {"$ne": True},
        "requirements.gpu": {"$in": [None, *offer.gpu_names]},
        "requirements.minVramGb": {"$not": {"$gt": offer.smallest_vram_gb}},
        "requirements.maxVramGb": {"$not": {"$lt": offer.largest_vram_gb}},
        "requirements.gpuCount": {"$not": {"$gt": offer.gpu_count}},
        "requirements.cpus": {"$not": {"$gt": offer.cpus}},
        "requirements.memoryGb": {"$not": {"$gt": offer.memory_gb}},
        "requirements.diskGb": {"$not": {"$gt": offer.disk_gb}},
        "requirements.region": {"$in": [None, offer.region]},
        "blockedBy": None,  # missing or null: it waits for no other run
        "$expr": {
            "$and": [
                # A missing date sorts before every other, so this also admits runs that need not wait.
                {"$lte": ["$runAfter", "$$NOW"]},
                {"$lte": ["$heldUntil", "$$NOW"]},
                # Ids of other types cannot be addressed over HTTP or on the command line. An expression, because a
                # condition on `_id` would make the planner try the index of ids.
                {"$eq": [{"$type": "$_id"}, "string"]},
            ]
        },
    }
