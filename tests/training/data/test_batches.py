from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pod_worker.training.data.batches import BatchPlan, micro_batches, split

lengths = st.lists(st.integers(1, 500), min_size=1, max_size=200)


@given(lengths=lengths, rows=st.integers(1, 17), seed=st.integers(0, 99), by_length=st.booleans())
def test_every_row_is_seen_once_in_every_epoch(lengths: list[int], rows: int, seed: int, by_length: bool) -> None:
    plan = BatchPlan(tuple(lengths), rows, seed, by_length)
    for epoch in (0, 1, 5):
        steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
        seen = Counter(row for step in steps for row in plan.step_rows(step))
        assert seen == Counter(range(len(lengths)))


@given(lengths=lengths, step=st.integers(0, 1000), seed=st.integers(0, 99))
def test_a_step_depends_on_nothing_but_its_number(lengths: list[int], step: int, seed: int) -> None:
    asked_first = BatchPlan(tuple(lengths), 4, seed).step_rows(step)
    plan = BatchPlan(tuple(lengths), 4, seed)
    for earlier in range(step % 7):
        plan.step_rows(earlier)
    assert plan.step_rows(step) == asked_first


def test_epochs_and_seeds_differ() -> None:
    plan, other = BatchPlan(tuple(range(1, 101)), 4, 0), BatchPlan(tuple(range(1, 101)), 4, 1)
    assert plan.step_rows(0) != plan.step_rows(plan.steps_per_epoch)
    assert plan.step_rows(0) != other.step_rows(0)


def test_grouping_leaves_little_padding() -> None:
    drawn = random.Random(0)
    many = tuple(drawn.randint(5, 200) for _ in range(1000))

    def padded(plan: BatchPlan) -> int:
        steps = (plan.step_rows(step) for step in range(plan.steps_per_epoch))
        return sum(len(rows) * max(many[row] for row in rows) for rows in steps)

    assert padded(BatchPlan(many, 8, 0)) < 1.1 * sum(many)
    assert padded(BatchPlan(many, 8, 0, by_length=False)) > 1.5 * sum(many)


@given(rows=st.sets(st.integers(0, 99), min_size=1), size=st.integers(1, 9))
def test_micro_batches_part_a_step_by_length(rows: set[int], size: int) -> None:
    lengths = [(row * 37) % 101 for row in range(100)]
    parts = micro_batches(sorted(rows), size, lengths)
    assert Counter(row for part in parts for row in part) == Counter(rows)
    flat = [lengths[row] for part in parts for row in part]
    assert flat == sorted(flat)
    assert max(map(len, parts)) <= size


@pytest.mark.parametrize(
    ("count", "fraction", "held"), [(100, 0.05, 5), (100, 0, 0), (10, 0.01, 1), (1, 0.5, 0), (2, 0.9, 1)]
)
def test_a_split_is_seeded_whole_and_leaves_something_to_train_on(count: int, fraction: float, held: int) -> None:
    training, held_out = split(range(count), fraction, seed=3)
    assert len(held_out) == held
    assert sorted(training + held_out) == list(range(count))
    assert split(range(count), fraction, seed=3) == (training, held_out)
