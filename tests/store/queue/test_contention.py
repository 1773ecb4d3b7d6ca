"""How claimers keep out of each other's way: in order while alone, spread out while races are lost."""

from __future__ import annotations

import random

from pod_worker.core.clock import ManualClock
from pod_worker.store.queue.contention import (
    BATCH,
    CALM_SECONDS,
    CROWDED_PEEK,
    KEPT_SECONDS,
    QUIET_PEEK,
    Candidate,
    Crowd,
)

SEEN = [Candidate(f"r{number:03d}", 5 if number < 40 else 0) for number in range(CROWDED_PEEK)]


def crowd(clock: ManualClock, seed: int = 1) -> Crowd:
    return Crowd(clock, random.Random(seed))


def seen(one: Crowd, what: list[Candidate]) -> list[str]:
    one.see(what)
    return one.batch()


def test_alone_the_head_is_tried_first_and_nothing_is_kept() -> None:
    alone = crowd(ManualClock())
    batch = seen(alone, SEEN[: alone.peek])
    assert batch == [each.run_id for each in SEEN[:BATCH]]
    alone.took(batch, batch[0])
    assert alone.batch() == []
    assert alone.peek == QUIET_PEEK


def test_after_a_lost_race_two_claimers_that_saw_the_same_try_for_different_runs() -> None:
    batches = []
    for seed in (1, 2):
        one = crowd(ManualClock(), seed)
        one.took(["a", "b"], "b")
        assert one.peek == CROWDED_PEEK
        batches.append(seen(one, SEEN))
    assert batches[0] != batches[1]
    assert batches[0] == sorted(batches[0])


def test_a_crowd_does_not_bring_less_urgent_runs_forward() -> None:
    one = crowd(ManualClock())
    one.took(["a"], None)
    tried = seen(one, SEEN)
    while batch := one.batch():
        tried += batch
    assert sorted(tried) == [each.run_id for each in SEEN if each.priority == 5]


def test_what_was_seen_is_forgotten_when_it_is_old_or_mostly_gone() -> None:
    clock = ManualClock()
    one = crowd(clock)
    one.took(["a"], None)
    seen(one, SEEN[48:])
    clock.advance(KEPT_SECONDS)
    assert one.batch() == []
    batch = seen(one, SEEN[48:])
    one.took(batch, batch[-1])
    assert one.batch() == []


def test_calm_comes_back() -> None:
    clock = ManualClock()
    one = crowd(clock)
    one.took(["a"], None)
    clock.advance(CALM_SECONDS)
    assert seen(one, SEEN) == [each.run_id for each in SEEN[:BATCH]]


def test_alone_a_head_that_is_gone_leaves_the_rest_of_the_look_to_try() -> None:
    one = crowd(ManualClock())
    first = seen(one, SEEN[48:112])
    one.took(first, None)
    second = one.batch()
    assert len(second) == BATCH
    assert not set(first) & set(second)
