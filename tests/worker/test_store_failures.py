"""A store that refuses, hangs or is away: a cancel always ends, a signal is heard, and the end has a name."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database
from pymongo.errors import AutoReconnect

from pod_worker.core.failure import FailureCode
from pod_worker.core.outcome import Canceled, Failed, Released
from pod_worker.store.queue.run_queue import RunQueue
from pod_worker.worker.attempt import fenced_writer
from tests.worker.hostile import supervised

Db = Database[dict[str, Any]]
CHECKPOINTS = """
def checkpoint(stage, state):
    uplink.write(json.dumps({"type": "checkpoint", "stage": stage, "done": False, "state": state}).encode() + b"\\n")
print("ready", flush=True)
"""
ONE = CHECKPOINTS + "checkpoint('s', {'n': 1})\nprint('sent', flush=True)\ntime.sleep(600)"
SECONDS = 12.0  # from the request to the end, on a loaded machine


def away(*_: object) -> bool:
    raise AutoReconnect("connection closed")


def hangs(*_: object) -> bool:
    time.sleep(1.0)  # as a call that pymongo.timeout ends
    raise AutoReconnect("timed out")


@pytest.mark.parametrize("write", [away, hangs])
def test_a_cancel_ends_a_run_whose_checkpoint_is_not_answered(
    db: Db, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[..., bool]
) -> None:
    monkeypatch.setattr(RunQueue, "checkpoint", write)
    with supervised(db, tmp_path, ONE) as attempt:
        attempt.wait_until(lambda: len(attempt.logs) == 2)
        assert attempt.cancel() < SECONDS
        assert isinstance(attempt.result().outcome, Canceled)


@pytest.mark.parametrize("write", [away, hangs])
def test_a_signal_is_heard_while_a_checkpoint_is_not_answered(
    db: Db, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[..., bool]
) -> None:
    monkeypatch.setattr(RunQueue, "checkpoint", write)
    with supervised(db, tmp_path, ONE) as attempt:
        attempt.wait_until(lambda: len(attempt.logs) == 2)
        began = time.monotonic()
        attempt.supervisor.drain("SIGTERM", force=True)
        assert isinstance(attempt.result().outcome, Released)
        assert time.monotonic() - began < SECONDS


def test_a_checkpoint_that_is_refused_for_good_ends_the_run_with_a_name(
    db: Db, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each state is small enough; together they exceed the 16 MiB of a document."""
    program = CHECKPOINTS + "for n in range(6):\n    checkpoint(f's{n}', {'x': 'x' * 4_000_000})\ntime.sleep(600)"
    with supervised(db, tmp_path, program) as attempt:
        outcome = attempt.result().outcome
    assert isinstance(outcome, Failed)
    assert outcome.failure.code is FailureCode.BAD_DOCUMENT
    assert "the checkpoint of s" in outcome.failure.message
    assert attempt.document["status"] == "FAILED"


def test_an_end_that_is_refused_for_good_is_settled_as_a_failure(
    db: Db, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle = RunQueue.settle

    def refuse_success(queue: RunQueue, fence: Any, outcome: Any) -> Any:
        if not isinstance(outcome, Failed):
            raise OverflowError("MongoDB can only handle up to 8-byte ints")
        return settle(queue, fence, outcome)

    monkeypatch.setattr(RunQueue, "settle", refuse_success)
    with supervised(db, tmp_path, "succeed()") as attempt:
        outcome = attempt.result().outcome
    assert isinstance(outcome, Failed)
    assert "the settle cannot be stored" in outcome.failure.message
    assert attempt.document["status"] == "FAILED"


def test_a_forced_stop_does_not_wait_for_an_end_that_is_not_answered(
    db: Db, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease ends, and the run is rescued."""
    asked = threading.Event()

    def settle(*_: object) -> bool:
        asked.set()
        raise AutoReconnect("connection closed")

    monkeypatch.setattr(RunQueue, "settle", settle)
    monkeypatch.setattr(fenced_writer, "RETRY_SECONDS", 0.05)
    with supervised(db, tmp_path, "succeed()") as attempt:
        assert asked.wait(15)
        began = time.monotonic()
        attempt.supervisor.drain("SIGTERM", force=True)
        assert attempt.result().settlement is None
        assert time.monotonic() - began < SECONDS
