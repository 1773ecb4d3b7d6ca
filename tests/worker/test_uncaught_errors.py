"""An uncaught error is reported, whichever thread it was in."""

from __future__ import annotations

import sys
import threading

import pytest

from pod_worker.core.credentials.secret import Redactor
from pod_worker.core.payload import RunLog
from pod_worker.worker import uncaught_errors


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[RunLog]:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    found: list[RunLog] = []
    uncaught_errors.install(found.append, "here")
    return found


def test_a_thread_that_dies_is_reported_with_its_name(reported: list[RunLog]) -> None:
    def die() -> None:
        raise ConnectionRefusedError("no server there")

    thread = threading.Thread(target=die, name="renewal")
    thread.start()
    thread.join()
    [entry] = reported
    assert "thread renewal" in entry.message
    assert entry.kv is not None
    assert entry.kv["code"] == "NETWORK"
    assert "no server there" in entry.kv["traceback"]


def test_the_main_thread_is_reported_and_an_interrupt_is_not(reported: list[RunLog]) -> None:
    sys.excepthook(ValueError, ValueError("bad"), None)
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert [entry.message for entry in reported] == ["uncaught in the main thread: ValueError: bad"]


def test_secrets_are_masked_in_what_is_reported_and_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    found: list[RunLog] = []
    uncaught_errors.install(found.append, "here", Redactor(["sentinel-0123456789\n"]))

    def die() -> None:
        raise ValueError("Invalid header value b'Bearer sentinel-0123456789\\n'")

    thread = threading.Thread(target=die, name="shipper")
    thread.start()
    thread.join()
    sys.excepthook(ValueError, ValueError("sentinel-0123456789"), None)
    assert len(found) == 2
    shown = repr(found) + "".join(capsys.readouterr())
    assert "Bearer ***" in shown
    assert "sentinel" not in shown
