"""`pod-worker control`: who may use it, and the thread that rescues runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner
from pymongo.errors import AutoReconnect, OperationFailure

from pod_worker.cli.exit_codes import CommandError
from pod_worker.cli.services import control as control_service
from pod_worker.cli.services.control import _check_access, rescue_thread, retention_thread
from pod_worker.config import Settings
from pod_worker.process.supervised_thread import SupervisedThread
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


def test_control_starts_every_thread_that_bounds_or_rescues(
    db: Any, mongodb_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the server is replaced: it reports that it listens, and ends when the threads have worked."""
    monkeypatch.setattr(event_log, "EVENTS_LIMIT", 3)
    db["events"].insert_many([{"runId": "r1", "position": position} for position in range(5)])
    for name, value in {"MONGODB_URL": mongodb_url, "CONTROL_PLANE_TOKEN": "a-long-enough-token"}.items():
        monkeypatch.setenv(name, value)
    started: list[SupervisedThread] = []
    start = SupervisedThread.start

    def note(thread: SupervisedThread) -> None:
        started.append(thread)
        start(thread)

    def serve(_app: object, host: str, port: int, on_ready: Callable[[str, int], object]) -> None:
        on_ready(host, port)
        until(lambda: db["events"].count_documents({}) == 3, "the retention works")

    monkeypatch.setattr(SupervisedThread, "start", note)
    monkeypatch.setattr(control_service, "serve", serve)
    try:
        result = CliRunner().invoke(control_service.control, ["--port", "0"])
    finally:
        for thread in started:
            thread.stop()
    assert result.exit_code == 0, result.output
    assert {"rescue", "retention", "ideation"} <= {thread.name for thread in started}


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
