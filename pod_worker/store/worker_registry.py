"""The register of workers: one document per process incarnation, so that people see who is there.

It is a picture, never a lock: nothing decides by it whether a run is alive (the lease does).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from pymongo import DESCENDING, IndexModel

from pod_worker.core.run import Json
from pod_worker.store.collections import WORKERS
from pod_worker.store.mongo import Document, Mongo

KEPT_SECONDS = 7 * 24 * 3600

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
    UNHEALTHY = "refusing"  # preflight said no; `reason` says why


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    worker_id: str
    pod_id: str
    mode: str
    version: str
    host: str
    pid: int
    gpu: str | None = None
    gpu_count: int = 0
    region: str | None = None


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


class WorkerRegistry:
    def __init__(self, database: Mongo) -> None:
        self._workers = database[WORKERS]

    def report_state(
        self, card: WorkerInfo, state: WorkerState, run_id: str | None = None, reason: str | None = None
    ) -> None:
        values: Document = {
            "podId": card.pod_id,
            "mode": card.mode,
            "version": card.version,
            "host": card.host,
            "pid": card.pid,
            "gpu": card.gpu,
            "gpuCount": card.gpu_count,
            "region": card.region,
            "state": state.value,
            "runId": run_id,
            "reason": reason,
        }
        change = {"$set": values, "$currentDate": {"lastSeen": True}}
        self._workers.update_one({"_id": card.worker_id}, change, upsert=True)

    def list(self, limit: int = 200) -> list[WorkerRecord]:
        found = self._workers.find().sort("lastSeen", DESCENDING).limit(limit)
        return [_seen(document) for document in found]


def _seen(document: Document) -> WorkerRecord:
    def text(field: str) -> str | None:
        value: Json = document.get(field)
        return None if value is None else str(value)

    last_seen = document.get("lastSeen")
    return WorkerRecord(
        worker_id=str(document["_id"]),
        pod_id=text("podId") or "?",
        mode=text("mode") or "?",
        state=text("state") or "?",
        run_id=text("runId"),
        gpu=text("gpu"),
        last_seen=last_seen if isinstance(last_seen, datetime) else None,
        reason=text("reason"),
    )
