"""Which workers are shown, and in which state: one that stopped reporting is gone."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo.database import Database

from pod_worker.core.worker_offer import WorkerOffer
from pod_worker.store.worker_registry import GONE_SECONDS, WorkerInfo, WorkerRecord, WorkerRegistry, WorkerState

Db = Database[dict[str, Any]]
INFO = WorkerInfo("w1", "pod", "all", "0.1", "host", 7)


def listed(db: Db) -> WorkerRecord:
    [record] = WorkerRegistry(db).list()
    return record


@pytest.mark.parametrize(
    ("state", "silent_seconds", "shown"),
    [
        (WorkerState.BUSY, 0, "busy"),
        (WorkerState.BUSY, GONE_SECONDS + 5, "gone"),
        (WorkerState.IDLE, GONE_SECONDS + 5, "gone"),
        (WorkerState.STOPPED, GONE_SECONDS + 5, "stopped"),
    ],
)
def test_a_worker_that_stopped_reporting_is_gone(
    db: Db, state: WorkerState, silent_seconds: float, shown: str
) -> None:
    WorkerRegistry(db).report_state(INFO, state, run_id="r1")
    then = datetime.now(UTC) - timedelta(seconds=silent_seconds)
    if silent_seconds:
        db["workers"].update_one({}, {"$set": {"lastSeen": then}})
    record = listed(db)
    assert (record.state, record.last_state) == (shown, state.value)
    assert record.run_id == (None if shown == "gone" else "r1"), "a dead worker holds no run"


def test_a_worker_that_reports_again_is_back(db: Db) -> None:
    registry = WorkerRegistry(db)
    registry.report_state(INFO, WorkerState.BUSY)
    db["workers"].update_one({}, {"$set": {"lastSeen": datetime(2026, 1, 1)}})
    assert listed(db).state == "gone"
    registry.report_state(INFO, WorkerState.IDLE)
    assert listed(db).state == "idle"


def test_an_offer_is_kept_and_records_without_one_are_read(db: Db) -> None:
    offer = WorkerOffer(
        ("H100",), 2, 80.0, 80.0, cpus=8.0, memory_gb=64.0, region="EU"
    )  # the disk was not measured
    WorkerRegistry(db).report_state(replace(INFO, offer=offer), WorkerState.IDLE)
    assert listed(db).offer == offer
    db["workers"].update_one({}, {"$set": {"offer": {"cpus": "many", "gpuNames": 7}}})
    assert listed(db).offer == WorkerOffer(gpu_count=2, region="EU")
    db["workers"].update_one({}, {"$unset": {"offer": 1}})
    assert listed(db).offer is None


@pytest.mark.parametrize("stored", [None, "synthetic", {"a": 1}, 7])
def test_queues_are_kept_and_records_without_them_are_read(db: Db, stored: Any) -> None:
    WorkerRegistry(db).report_state(replace(INFO, queues=("nightly", "synthetic")), WorkerState.IDLE)
    assert listed(db).queues == ("nightly", "synthetic")
    db["workers"].update_one({}, {"$set": {"queues": stored}})
    assert listed(db).queues == ()
