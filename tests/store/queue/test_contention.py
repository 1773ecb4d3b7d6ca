"""How claimers keep out of each other's way: in order while alone, spread out while races are lost."""

from __future__ import annotations

import random

from pod_worker.core.clock import ManualClock
from pod_worker.store.queue.contention import (
    BATCH,
    CACHE_SECONDS,
    CONTENDED_LOOK_AHEAD,
    CONTENTION_MEMORY_SECONDS,
    UNCONTENDED_LOOK_AHEAD,
    ClaimContention,
    QueuedRun,
)

SEEN = [QueuedRun(f"r{number:03d}", 5 if number < 40 else 0) for number in range(CONTENDED_LOOK_AHEAD)]


def crowd(clock: ManualClock, seed: int = 1) -> ClaimContention:
    return ClaimContention(clock, random.Random(seed))


def seen(one: ClaimContention, what: list[QueuedRun]) -> list[str]:
    one.observe(what)
    return one.next_batch()


def test_alone_the_head_is_tried_first_and_nothing_is_kept() -> None:
    alone = crowd(ManualClock())
    batch = seen(alone, SEEN[: alone.look_ahead])
    assert batch == [each.run_id for each in SEEN[:BATCH]]
    alone.record_result(batch, batch[0])
    assert alone.next_batch() == []
    assert alone.look_ahead == UNCONTENDED_LOOK_AHEAD


def test_after_a_lost_race_two_claimers_that_saw_the_same_try_for_different_runs() -> None:
    batches = []
    for seed in (1, 2):
        one = crowd(ManualClock(), seed)
        one.record_result(["a", "b"], "b")
        assert one.look_ahead == CONTENDED_LOOK_AHEAD
        batches.append(seen(one, SEEN))
    assert batches[0] != batches[1]
    assert batches[0] == sorted(batches[0])


def test_a_crowd_does_not_bring_less_urgent_runs_forward() -> None:
    one = crowd(ManualClock())
    one.record_result(["a"], None)
    tried = seen(one, SEEN)
    while batch := one.next_batch():
        tried += batch
    assert sorted(tried) == [each.run_id for each in SEEN if each.priority == 5]


def test_what_was_seen_is_forgotten_when_it_is_old_or_mostly_gone() -> None:
    clock = ManualClock()
    one = crowd(clock)
    one.record_result(["a"], None)
    seen(one, SEEN[48:])
    clock.advance(CACHE_SECONDS)
    assert one.next_batch() == []
    batch = seen(one, SEEN[48:])
    one.record_result(batch, batch[-1])
    assert one.next_batch() == []


def test_calm_comes_back() -> None:
    clock = ManualClock()
    one = crowd(clock)
    one.record_result(["a"], None)
    clock.advance(CONTENTION_MEMORY_SECONDS)
    assert seen(one, SEEN) == [each.run_id for each in SEEN[:BATCH]]


def test_alone_a_head_that_is_gone_leaves_the_rest_of_the_look_to_try() -> None:
    one = crowd(ManualClock())
    first = seen(one, SEEN[48:112])
    one.record_result(first, None)
    second = one.next_batch()
    assert len(second) == BATCH
    assert not set(first) & set(second)
