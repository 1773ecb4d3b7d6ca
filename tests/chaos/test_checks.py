"""The checker must see red: every check is shown a history or a ledger with exactly one thing wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from chaos.checks import effects, ends, events, fencing, rescues
from chaos.evidence import StepRecord
from chaos.history import Change
from chaos.journal import Entry
from chaos.workload import PlannedRun
from tests.chaos.stories import LEASE_SECONDS, START, Story, at

Make = Callable[[], Story]


def note(
    boot: float, attempt: int, stage: str, step: int, what: str = "step", pid: int = 0, *ids: str
) -> StepRecord:
    return StepRecord(boot, pid or 100 + attempt, "r", attempt, stage, what, step, ids)


# ── fencing ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_lawful_history_has_no_stale_write(good: Story) -> None:
    assert list(fencing.stale_writes(good.moves, LEASE_SECONDS)) == []
    assert list(fencing.illegal_moves(good.moves)) == []


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (lambda s: s.claimed(2, 2, "pod-1:w"), "held by pod-0:w"),
        (lambda s: s.renewed(8), "been over"),
        (lambda s: s.saved(2, "Stage_1", 7), "another attempt"),
        (lambda s: s.settled(2, 7), "did not hold it"),
        (lambda s: s.rescued(2), "to go"),
        (lambda s: s.rescued(9).saved(10, "Stage_1", 1), "no attempt held"),
        (lambda s: s.rescued(9).then(10, leaseExpiresAt=at(16)), "no attempt held"),
    ],
)
def test_a_write_of_somebody_who_does_not_hold_the_run_is_seen(
    story: Make, broken: Callable[[Story], Story], says: str
) -> None:
    history = broken(story().queued().claimed(1, 1).started(1.1)).moves
    found = list(fencing.stale_writes(history, LEASE_SECONDS))
    assert len(found) == 1
    assert says in found[0]


@pytest.mark.parametrize(
    "broken",
    [
        lambda s: s.then(2, attempt=3),
        lambda s: s.settled(2, 1).then(3, status="RUNNING", leaseToken="t1"),
        lambda s: s.settled(2, 1).then(3, status="FAILED"),
        lambda s: s.then(2, status="QUEUED"),
    ],
)
def test_a_move_that_the_states_do_not_allow_is_seen(story: Make, broken: Callable[[Story], Story]) -> None:
    assert list(fencing.illegal_moves(broken(story().queued().claimed(1, 1)).moves))


def test_an_artifact_registered_after_the_run_was_taken_over_is_seen(story: Make) -> None:
    changes = story().queued().claimed(1, 1).rescued(9).claimed(10, 2).changes
    row = {"_id": "r:data:ff", "runId": "r", "attempt": 1, "verifiedAt": START}
    late = Change(len(changes), "artifacts", "r:data:ff", START.timestamp(), None, row)
    assert list(fencing.stale_artifacts([*changes, late]))
    assert list(fencing.stale_artifacts([*changes[:2], late])) == []


# ── effects ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_stage_done_again_after_it_was_recorded_is_seen(good: Story) -> None:
    claims = effects.claims(good.moves)
    assert list(effects.doubled([note(1, 1, "Stage_1", 0), note(2, 2, "Stage_2", 0)], claims)) == []
    assert list(effects.doubled([note(2, 2, "Stage_1", 0)], claims))


def test_a_step_done_again_after_it_was_recorded_is_seen(story: Make) -> None:
    history = story().queued().claimed(1, 1).saved(2, "Stage_1", 1, done=False, step=4).rescued(9).claimed(10, 2)
    claims = effects.claims(history.moves)
    assert list(effects.doubled([note(3, 2, "Stage_1", 4)], claims)) == []
    assert list(effects.doubled([note(3, 2, "Stage_1", 3)], claims))


def test_an_attempt_in_two_processes_or_without_a_claim_is_seen(good: Story) -> None:
    claims = effects.claims(good.moves)
    assert list(effects.twice([note(1, 1, "Stage_1", 0), note(2, 2, "Stage_2", 0)], claims)) == []
    assert list(effects.twice([note(1, 1, "Stage_1", 0, pid=1), note(2, 1, "Stage_1", 1, pid=2)], claims))
    assert list(effects.twice([note(1, 3, "Stage_1", 0)], claims))


def test_a_step_after_the_next_attempt_began_is_seen() -> None:
    first, second = note(1, 1, "Stage_1", 0), note(2, 2, "Stage_1", 0)
    assert effects.late_acts([first, second]) == []
    assert effects.late_acts([first, second, note(3, 1, "Stage_1", 1)])


def test_only_the_moment_after_a_whole_pod_was_thawed_excuses_what_is_late() -> None:
    def explains(kind: str, pod: str, boot: float) -> bool:
        return effects.Thaws([Entry(boot, 0.0, "heal", kind, pod)]).explain("pod-0", (10.0, 10.1))

    assert explains("freeze_pod", "pod-0", 9.9)
    assert not explains("freeze_worker", "pod-0", 9.9)
    assert not explains("freeze_pod", "pod-1", 9.9)
    assert not explains("freeze_pod", "pod-0", 8.0)


def test_overlap_is_the_time_in_which_both_lived(good: Story) -> None:
    claims = effects.claims(good.moves)
    apart = {"r/1": [(0.0, 4.0), (10.0, 12.0)], "r/2": [(4.0, 10.0)], "q/1": [(0.0, 20.0)]}
    assert list(effects.shared_spans(apart, claims)) == []
    (found,) = effects.shared_spans({"r/1": [(0.0, 5.0)], "r/2": [(4.0, 10.0)]}, claims)
    assert (found.seconds, found.pod) == (1.0, "pod-0")


# ── ends ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_ends_are_counted_since_the_last_reset(good: Story) -> None:
    assert ends.endings(good.moves, "r") == ["COMPLETED"]
    assert ends.endings(good.reset(13).moves, "r") == []
    assert ends.endings(good.claimed(14, 4).settled(15, 4, "FAILED").moves, "r") == ["FAILED"]


def test_a_cancel_that_is_late_or_never_confirmed_is_seen(story: Make) -> None:
    def is_met(end: Callable[[Story], Story]) -> bool | None:
        asked = story().queued().claimed(1, 1).cancel_requested(2)
        (row,) = ends.cancels(end(asked).moves)
        return row.is_met

    assert is_met(lambda asked: asked.settled(5, 1, "CANCELED"))
    assert not is_met(lambda late: late.settled(45, 1, "CANCELED"))
    assert not is_met(lambda never: never)
    assert not is_met(lambda claimed_again: claimed_again.rescued(9).claimed(10, 2))


@pytest.mark.parametrize(
    ("status", "code", "is_canceled", "is_right"),
    [
        ("COMPLETED", None, False, True),
        ("FAILED", "USER_ERROR", False, False),
        ("FAILED", "POISON", False, True),
        ("CANCELED", None, True, True),
        ("CANCELED", None, False, False),
    ],
)
def test_an_end_that_the_work_did_not_ask_for_is_seen(
    story: Make, status: str, code: str | None, is_canceled: bool, is_right: bool
) -> None:
    history = story().queued().claimed(1, 1)
    if is_canceled:
        history.cancel_requested(2)
    history.settled(3, 1, status, errorCode=code)
    orders = {"r": PlannedRun("r", "short", "synthetic", {})}
    assert (list(ends.wrong_endings(orders, history.moves)) == []) == is_right


# ── rescues ─────────────────────────────────────────────────────────────────────────────────────────────────


def struck(kind: str, target: str, second: float, lasts: float = 0.0) -> Entry:
    return Entry(0.0, at(second).timestamp(), "strike", kind, target, lasts)


def test_a_rescue_is_timed_from_the_last_renewal(good: Story) -> None:
    (found,) = rescues.rescues(good.moves, LEASE_SECONDS)
    assert (found.pod, found.attempt) == ("pod-0", 1)
    assert found.seconds == pytest.approx(6.5)


@pytest.mark.parametrize(
    ("entry", "is_explained"),
    [
        (struck("kill_worker", "pod-0", 3), True),
        (struck("kill_worker", "pod-1", 3), False),
        (struck("kill_worker", "pod-0", 9), False),
        (struck("ingest_cut", "pod-0", 3), False),
        (struck("db_hang", "pod-0", -2, lasts=5), True),
        (struck("kill_primary", "mongodb", 3), True),
        (Entry(0.0, at(3).timestamp(), "worker ended", "w", "pod-0"), True),
    ],
)
def test_a_rescue_needs_a_fault_that_kept_the_worker_from_renewing(
    good: Story, entry: Entry, is_explained: bool
) -> None:
    (found,) = rescues.rescues(good.moves, LEASE_SECONDS)
    assert rescues.is_explained(found, [entry], LEASE_SECONDS) == is_explained


def test_a_crash_costs_what_was_done_since_the_last_kept_step(good: Story) -> None:
    notes = [note(1, 1, "Stage_1", 0), note(2, 1, "Stage_1", 1, "ended"), note(3, 1, "Stage_2", 0)]
    notes += [note(5, 1, "Stage_2", 1), note(20, 2, "Stage_2", 0)]
    assert rescues.lost_seconds(notes, good.moves) == [3.0]


# ── events ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_gap_in_the_numbers_is_seen_unless_it_was_owned_up_to() -> None:
    numbers = {("r", 1): [1, 2, 4, 5]}
    assert list(events.gaps(numbers, {("r", 1): 1})) == []
    assert list(events.gaps(numbers, {}))
    assert list(events.gaps({("r", 1): [1, 2, 3]}, {})) == []


def test_a_number_given_twice_is_seen() -> None:
    assert list(events.repeats({("r", 1): [1, 2, 2, 3]}))
    assert list(events.repeats({("r", 1): [1, 2, 3]})) == []


def test_an_event_that_was_promised_and_is_not_stored_is_seen() -> None:
    notes = [note(1, 1, "Stage_1", 0, "step", 1, "a", "b")]
    assert list(events.broken_promises(notes, {"a", "b"}, {})) == []
    assert list(events.broken_promises(notes, {"a"}, {}))
    assert list(events.broken_promises(notes, {"a"}, {("r", 1): 1})) == []


def test_only_the_death_of_a_process_on_a_full_disk_excuses_what_it_did_not_own_up_to() -> None:
    last = StepRecord(10, 1, "r", 1, "Stage_1", "step", 0, ("a",), "pod-0")
    assert list(events.broken_promises([last], set(), {}, [events.FullDisk("pod-0", 9, 11)])) == []
    assert list(events.broken_promises([last], set(), {}, [events.FullDisk("pod-1", 9, 11)]))
    lived_on = StepRecord(12, 1, "r", 1, "Stage_1", "step", 1, (), "pod-0")
    assert list(events.broken_promises([last, lived_on], set(), {}, [events.FullDisk("pod-0", 9, 11)]))
