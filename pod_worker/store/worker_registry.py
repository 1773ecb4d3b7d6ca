"""The registry of workers: one document per process incarnation, for people.

It is a report, never a lock. Only the lease decides whether a run's worker lives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from pymongo import DESCENDING, IndexModel

from pod_worker.core.worker_offer import WorkerOffer
from pod_worker.store.collections import WORKERS
from pod_worker.store.document_fields import counter, finite, mapping, moment, text, texts
from pod_worker.store.mongo import Document, Mongo, tolerant_rows

KEPT_SECONDS = 7 * 24 * 3600
GONE_SECONDS = 150.0  # two of the reports, which come every 60 s, are missing

INDEXES: dict[str, list[IndexModel]] = {
    WORKERS: [
        IndexModel([("lastSeen", DESCENDING)], name="last_seen", expireAfterSeconds=KEPT_SECONDS),
        IndexModel([("podId", 1)], name="pod"),
    ]
}


class WorkerState(StrEnum):
    IDLE = "idle"
    BUSY = "busy"
    DRAINING = "draining"
    STOPPED = "stopped"
    UNHEALTHY = "refusing"  # the preflight failed; `reason` says why
    GONE = "gone"  # never stored: no report for GONE_SECONDS, and none that it stops


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    worker_id: str
    pod_id: str
    mode: str
    version: str
    host: str
    pid: int
    gpu: str | None = None
    queues: tuple[str, ...] = ()
    offer: WorkerOffer = field(default_factory=WorkerOffer)


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    worker_id: str
    pod_id: str
    mode: str
    state: str
    run_id: str | None
    gpu: str | None
    last_seen: datetime | None
    reason: str | None
    last_state: str  # as reported; differs from `state` for a worker that is gone
    queues: tuple[str, ...] = ()  # that it claims from; empty in records of earlier versions
    offer: WorkerOffer | None = None  # None in records of earlier versions


class WorkerRegistry:
    def __init__(self, database: Mongo) -> None:
        self._workers = tolerant_rows(database, WORKERS)

    def report_state(
        self, worker: WorkerInfo, state: WorkerState, run_id: str | None = None, reason: str | None = None
    ) -> None:
        values: Document = {
            "podId": worker.pod_id,
            "mode": worker.mode,
            "version": worker.version,
            "host": worker.host,
            "pid": worker.pid,
            "gpu": worker.gpu,
            "gpuCount": worker.offer.gpu_count,
            "region": worker.offer.region,
            "queues": list(worker.queues),
            "offer": offer_document(worker.offer),
            "state": state.value,
            "runId": run_id,
            "reason": reason,
        }
        change = {"$set": values, "$currentDate": {"lastSeen": True}}
        self._workers.update_one({"_id": worker.worker_id}, change, upsert=True)

    def list(self, limit: int = 200) -> list[WorkerRecord]:
        """The last ones that reported first.

        Whether one is gone is judged by the server's clock.
        """
        is_silent = {"$lt": ["$lastSeen", {"$subtract": ["$$NOW", int(GONE_SECONDS * 1000)]}]}
        found = self._workers.aggregate(
            [{"$sort": {"lastSeen": DESCENDING}}, {"$limit": limit}, {"$addFields": {"isSilent": is_silent}}]
        )
        return [_record(document) for document in found]


def _record(document: Document) -> WorkerRecord:
    last_state, queues = text(document, "state") or "?", document.get("queues")
    is_gone = document.get("isSilent") is True and last_state != WorkerState.STOPPED.value
    return WorkerRecord(
        worker_id=str(document["_id"]),
        pod_id=text(document, "podId") or "?",
        mode=text(document, "mode") or "?",
        state=WorkerState.GONE.value if is_gone else last_state,
        run_id=None if is_gone else text(document, "runId"),
        gpu=text(document, "gpu"),
        last_seen=moment(document, "lastSeen"),
        reason=text(document, "reason"),
        last_state=last_state,
        queues=tuple(str(name) for name in queues) if isinstance(queues, list) else (),
        offer=_offer(document),
    )


def offer_document(offer: WorkerOffer) -> Document:
    """What was measured; the count of GPUs and the region are fields of the worker."""
    amounts = {name: getattr(offer, field) for name, field in _AMOUNTS.items()}
    measured = {name: value for name, value in amounts.items() if math.isfinite(value)}
    return measured | {"gpuNames": list(offer.gpu_names)}


def _offer(document: Document) -> WorkerOffer | None:
    stored = mapping(document, "offer")
    if not stored:
        return None
    amounts = {field: finite(stored.get(name)) for name, field in _AMOUNTS.items()}
    return WorkerOffer(
        gpu_names=texts(stored, "gpuNames"),
        gpu_count=counter(document.get("gpuCount")) or 0,
        region=text(document, "region"),
        **{field: value for field, value in amounts.items() if value is not None},
    )


_AMOUNTS = {
    "smallestVramGb": "smallest_vram_gb",
    "largestVramGb": "largest_vram_gb",
    "cpus": "cpus",
    "memoryGb": "memory_gb",
    "diskGb": "disk_gb",
}
