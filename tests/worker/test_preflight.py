"""A pod that cannot do the work says so, with the fix."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pymongo.database import Database

from pod_worker.local.process import free_port
from pod_worker.store.mongo import connect
from pod_worker.worker import preflight


def test_a_healthy_pod_has_no_problem(mongodb_url: str, tmp_path: Path) -> None:
    database = connect(mongodb_url)
    checks = [
        preflight.store_check(database, mongodb_url),
        preflight.clock_check(database, lambda: datetime.now(UTC)),
        preflight.disk_check(tmp_path / "not" / "yet", 0.001),
        preflight.gpu_check(0, 0, lambda: "never asked"),
    ]
    assert preflight.run_checks(checks) == []
    database.client.close()


def test_missing_gpus_are_a_shortage_that_names_both_numbers() -> None:
    problem = preflight.gpu_check(2, 1)()
    assert problem is not None
    assert problem.shortage is not None
    assert (problem.shortage.required_gpus, problem.shortage.available_gpus) == (2, 1)
    assert "POD_WORKER_REQUIRED_GPUS" in problem.message


def test_a_gpu_that_does_not_compute_is_a_shortage_too() -> None:
    problem = preflight.gpu_check(1, 1, lambda: "CUDA error: no kernel image")()
    assert problem is not None
    assert problem.shortage is not None
    assert "no kernel image" in problem.message


def test_a_skewed_clock_is_a_problem(db: Database[dict[str, Any]]) -> None:
    problem = preflight.clock_check(db, lambda: datetime.now(UTC) + timedelta(minutes=5))()
    assert problem is not None
    assert "300 s" in problem.message or "299 s" in problem.message


def test_a_full_disk_names_the_setting(tmp_path: Path) -> None:
    problem = preflight.disk_check(tmp_path, 1e9)()
    assert problem is not None
    assert "POD_WORKER_WORK_DIR" in problem.message


def test_an_absent_store_and_control_plane_are_named_without_secrets() -> None:
    url = f"mongodb://ana:sentinel@127.0.0.1:{free_port()}/x"
    database = connect(url, timeout_seconds=0.2)
    store = preflight.store_check(database, url)()
    control = preflight.control_plane_check(f"http://127.0.0.1:{free_port()}")()
    assert store is not None
    assert control is not None
    assert "sentinel" not in store.message
    assert "pod-worker up" in store.message
    assert "CONTROL_PLANE_URL" in control.message
    database.client.close()
