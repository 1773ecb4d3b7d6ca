"""Asked once for a run that goes on talking of one attempt, and again whenever that may be wrong."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pod_worker.control.ingest.attempt_cache import TRUSTED_SECONDS, AttemptCache
from pod_worker.core.clock import ManualClock


class Runs:
    """Stands for the views: attempts by run, and what was asked."""

    def __init__(self, **attempts: int) -> None:
        self.known = attempts
        self.asked: list[Sequence[str]] = []

    def current_attempts(self, run_ids: Sequence[str]) -> dict[str, int]:
        self.asked.append(run_ids)
        return {run_id: self.known[run_id] for run_id in run_ids if run_id in self.known}


@pytest.fixture
def runs() -> Runs:
    return Runs(r1=2)


@pytest.fixture
def attempts(runs: Runs, clock: ManualClock) -> AttemptCache:
    return AttemptCache(runs, clock)  # type: ignore[arg-type]


def sent(attempt: int | None, run: str = "r1") -> tuple[str, int | None]:
    return run, attempt


def test_a_run_that_goes_on_is_asked_for_once(attempts: AttemptCache, runs: Runs, clock: ManualClock) -> None:
    for _ in range(3):
        assert attempts.get([sent(2), sent(2)]) == {"r1": 2}
    assert runs.asked == [["r1"]]
    clock.advance(TRUSTED_SECONDS * 1.01)
    runs.known["r1"] = 3
    assert attempts.get([sent(2)]) == {"r1": 3}


@pytest.mark.parametrize("attempt", [1, 3, None])
def test_another_attempt_or_none_always_asks(attempts: AttemptCache, runs: Runs, attempt: int | None) -> None:
    attempts.get([sent(2)])
    runs.known["r1"] = 3
    assert attempts.get([sent(2), sent(attempt)]) == {"r1": 3}


def test_an_unknown_run_is_asked_for_again(attempts: AttemptCache, runs: Runs) -> None:
    assert attempts.get([sent(1, "new")]) == {}
    runs.known["new"] = 1
    assert attempts.get([sent(1, "new")]) == {"new": 1}


def test_events_of_no_run_ask_nothing(attempts: AttemptCache, runs: Runs) -> None:
    assert attempts.get([(None, 1)]) == {}
    assert runs.asked == []
