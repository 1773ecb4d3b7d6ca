"""`pod-worker control`: who may use it, and the thread that rescues runs."""

from __future__ import annotations

from typing import Any

import pytest
from pymongo.errors import AutoReconnect, OperationFailure

from pod_worker.cli.exit_codes import CommandError
from pod_worker.cli.services.control import _check_access, rescue_thread, retention_thread
from pod_worker.config import Settings
from pod_worker.store.events import event_log
from pod_worker.store.views import metric_series
from tests.fake_runpod.waiting import until


class Failing:
    """Stands for a rescue whose sweep raises."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.sweeps = 0

    def sweep(self) -> list[Any]:
        self.sweeps += 1
        if self.errors:
            raise self.errors.pop(0)
        return []


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pod_worker.cli.services.control.RESCUE_SECONDS", 0.01)


def test_the_rescue_thread_survives_every_error() -> None:
    """One document that could not be decoded ended it for good, and /readyz stayed green."""
    failing = Failing(ValueError("cannot convert float NaN to integer"), AutoReconnect("x"), KeyError("x"))
    thread = rescue_thread(failing)  # type: ignore[arg-type]
    thread.start()
    until(lambda: failing.sweeps >= 5, "it goes on after three errors")
    assert thread.problem() is None
    thread.stop()


def test_the_retention_thread_bounds_what_a_run_stores(db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "EVENTS_LIMIT", 3)
    monkeypatch.setattr(metric_series, "DOCUMENTS_LIMIT", 3)
    db["events"].insert_many([{"runId": "r1", "position": position} for position in range(5)])
    db["metrics"].insert_many([{"runId": "r1", "columns": []} for _ in range(5)])
    thread = retention_thread(db)
    thread.start()
    until(lambda: db["events"].count_documents({}) == 3 and db["metrics"].count_documents({}) == 0, "both bounded")
    assert thread.problem() is None
    thread.stop()


def test_a_rescue_that_always_fails_is_reported() -> None:
    failing = Failing(*[ValueError("cannot convert")] * 10_000)
    thread = rescue_thread(failing)  # type: ignore[arg-type]
    thread.start()
    until(lambda: thread.problem() is not None, "three failures in a row")
    assert "rescue" in str(thread.problem())
    thread.stop()


def test_a_database_that_is_down_is_no_fault_of_the_thread() -> None:
    failing = Failing(*[AutoReconnect("x")] * 10_000)
    thread = rescue_thread(failing)  # type: ignore[arg-type]
    thread.start()
    until(lambda: failing.sweeps >= 5, "it goes on")
    assert thread.problem() is None
    thread.stop()


def test_a_command_that_mongodb_refuses_for_good_is_one() -> None:
    failing = Failing(*[OperationFailure("bad", 9)] * 10_000)
    thread = rescue_thread(failing)  # type: ignore[arg-type]
    thread.start()
    until(lambda: thread.problem() is not None, "three failures in a row")
    thread.stop()


@pytest.mark.parametrize(
    ("token", "host", "is_open", "fault"),
    [
        (None, "127.0.0.1", False, "CONTROL_PLANE_TOKEN is not set"),
        (None, "0.0.0.0", False, "CONTROL_PLANE_TOKEN is not set"),
        (None, "0.0.0.0", True, "exclude each other"),
        ("a-long-enough-token", "0.0.0.0", True, "exclude each other"),
        ("a-long-enough-token", "0.0.0.0", False, None),
        (None, "127.0.0.1", True, None),
        ("a-long-enough-token", "::1", True, None),
    ],
)
def test_access(token: str | None, host: str, is_open: bool, fault: str | None) -> None:
    settings = Settings(control_plane_token=token)
    if fault is None:
        _check_access(settings, host, is_open)
        return
    with pytest.raises(CommandError, match=fault):
        _check_access(settings, host, is_open)
