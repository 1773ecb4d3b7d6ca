"""Which state may follow which, and which stages of a run are done."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pod_worker.core.pod_intent import INTENT_TRANSITIONS, IntentState
from pod_worker.core.run import (
    ACTIVE,
    TERMINAL,
    TRANSITIONS,
    Checkpoint,
    Run,
    RunStatus,
    reported_predecessors,
)

statuses = st.sampled_from(RunStatus)


def test_every_state_has_its_transitions() -> None:
    assert TRANSITIONS.keys() == set(RunStatus)
    assert IntentState.RETIRED in INTENT_TRANSITIONS
    assert INTENT_TRANSITIONS.keys() == set(IntentState)


def test_every_state_is_waiting_held_or_over() -> None:
    waiting = {RunStatus.QUEUED, RunStatus.AWAITING_HUMAN}
    assert waiting | ACTIVE | TERMINAL == set(RunStatus)
    assert len(waiting) + len(ACTIVE) + len(TERMINAL) == len(RunStatus)


def test_every_state_can_be_reached_from_the_queue_and_everything_unfinished_can_end() -> None:
    reached = {RunStatus.QUEUED}
    while more := {to for state in reached for to in TRANSITIONS[state]} - reached:
        reached |= more
    assert reached == set(RunStatus)
    for state in set(RunStatus) - TERMINAL:
        assert {RunStatus.FAILED, RunStatus.CANCELED} <= TRANSITIONS[state], state


def test_an_ended_run_is_never_taken_back_by_a_transition() -> None:
    for state in TERMINAL:
        assert not TRANSITIONS[state] & (ACTIVE - {RunStatus.AUTO_VALIDATING} | {RunStatus.QUEUED}), state
    for state in (RunStatus.FAILED, RunStatus.CANCELED):
        assert not TRANSITIONS[state]


@given(statuses, statuses)
def test_events_move_a_run_along_the_transitions(current: RunStatus, to: RunStatus) -> None:
    is_for_the_queue_alone = (current, to) == (RunStatus.QUEUED, RunStatus.FAILED)
    assert current not in TRANSITIONS[current]
    assert (current in reported_predecessors(to)) == (to in TRANSITIONS[current] and not is_for_the_queue_alone)


def test_the_old_word_for_scheduled_is_read() -> None:
    assert RunStatus.parse("STARTING") is RunStatus.SCHEDULED
    for status in RunStatus:
        assert RunStatus.parse(status.value) is status
    with pytest.raises(ValueError, match="WEIRD"):
        RunStatus.parse("WEIRD")


def test_only_a_finished_stage_is_done() -> None:
    saved = {"a": Checkpoint("a", True), "b": Checkpoint("b", False, {"step": 3})}
    run = Run("a", "synthetic", "synthetic", RunStatus.RUNNING, {}, checkpoints=saved)
    assert [stage for stage in ("a", "b", "c") if run.is_done(stage)] == ["a"]
