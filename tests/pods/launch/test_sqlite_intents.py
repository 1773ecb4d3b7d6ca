"""The SQLite intent log keeps every promise of the port, across reopening and between connections."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pod_worker.core.pod_intent import IntentLog, IntentState
from pod_worker.pods.launch.sqlite_intents import IntentFile
from tests.pods.intent_log_checks import FIRST, IntentLogChecks
from tests.pods.stepped import DictLog


class TestIntentFile(IntentLogChecks):
    @pytest.fixture
    def log(self, tmp_path: Path) -> Iterator[IntentLog]:
        log = IntentFile(tmp_path / "deep" / "intents.db")
        yield log
        log.close()


class TestDictLog(IntentLogChecks):
    """The model that the fault schedules use must promise no more than the real logs."""

    @pytest.fixture
    def log(self) -> IntentLog:
        return DictLog()


def test_intents_outlive_the_process(tmp_path: Path) -> None:
    first, second = IntentFile(tmp_path / "intents.db"), IntentFile(tmp_path / "intents.db")
    first.record(FIRST)
    first.close()
    assert second.advance("worker-1", expect={IntentState.PENDING}, to=IntentState.UNCERTAIN)
    second.close()
