from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pod_worker.fake_runpod.billing.ledger import (
    BUCKETS,
    OFF,
    PER_MONTH,
    ZERO,
    BilledItem,
    Ledger,
    Rates,
    UsageMeter,
    bucket_edges,
    bucket_next,
    bucket_start,
)
from pod_worker.fake_runpod.billing.money import PICO_PER_NANO
from pod_worker.fake_runpod.timestamps import DAY, HOUR, SECOND

START = 1_767_225_600 * SECOND  # 2026-01-01
RATES = st.builds(Rates, st.integers(0, 10**13), st.integers(0, 10**11), st.booleans())
STEPS = st.lists(st.tuples(st.integers(1, 3 * DAY), RATES), min_size=1, max_size=12)


def usage_of(steps: list[tuple[int, Rates]]) -> UsageMeter:
    usage, now = UsageMeter(), START
    for span, rates in steps:
        usage.set(now, rates)
        now += span
    usage.set(now, OFF)
    return usage


@given(STEPS)
def test_a_bill_is_the_exact_sum_of_rate_times_time(steps: list[tuple[int, Rates]]) -> None:
    amounts_due = usage_of(steps).usage_until(START + 400 * DAY)
    compute = sum(Fraction(rates.compute * span, PER_MONTH) * PICO_PER_NANO for span, rates in steps)
    assert 0 <= compute - amounts_due.compute < 1  # pico-dollars


@given(STEPS, st.sampled_from(BUCKETS))
def test_records_add_up_to_the_total_however_time_is_cut(steps: list[tuple[int, Rates]], bucket: str) -> None:
    ledger, now = Ledger(), START
    ledger.open(BilledItem("pod", "gpu", False, 10), now, steps[0][1])
    for span, rates in steps:
        ledger.set_rates("pod", now, rates)
        now += span
    ledger.close("pod", now)
    charges = list(ledger.charges(START, now + 1, bucket, until=now))
    assert sum((c.amounts for c in charges), ZERO) == ledger.entries["pod"].usage.usage_until(now)


@given(STEPS)
def test_folding_old_lines_changes_no_total(steps: list[tuple[int, Rates]]) -> None:
    kept, folding = Ledger(keep=100), Ledger(keep=0)
    for ledger in (kept, folding):
        now = START
        ledger.open(BilledItem("pod", "gpu", False, 10), now, OFF)
        for span, rates in steps:
            ledger.set_rates("pod", now, rates)
            now += span
        ledger.close("pod", now)
    assert not folding.entries
    sums = [
        sum((c.amounts for c in ledger.charges(START, now + DAY, "day", until=now + DAY)), ZERO)
        for ledger in (kept, folding)
    ]
    assert sums[0] == sums[1]


def test_the_running_total_follows_every_line() -> None:
    ledger = Ledger()
    for name in ("a", "b"):
        ledger.open(BilledItem(name, "gpu", False, 0), START, Rates(compute=720 * 10**9, on=True))
    ledger.close("a", START + HOUR)
    assert ledger.rate == 720 * 10**9
    assert ledger.total.usage_until(START + 2 * HOUR).compute == 3 * 10**12


def test_the_running_total_forgets_its_past_but_not_its_sum() -> None:
    ledger = Ledger()
    ledger.open(BilledItem("a", "gpu", False, 0), START, OFF)
    for i in range(5000):
        ledger.set_rates("a", START + i * SECOND, Rates(compute=720 * 10**9 * (1 + i % 2)))
    assert len(ledger.total.at) <= 1024
    assert ledger.total.usage_until(START + 5000 * SECOND) == ledger.entries["a"].usage.usage_until(
        START + 5000 * SECOND
    )


@pytest.mark.parametrize(("bucket", "edges"), [("hour", 25), ("day", 2), ("week", 2), ("month", 2), ("year", 2)])
def test_bucket_edges_surround_a_day(bucket: str, edges: int) -> None:
    found = list(bucket_edges(START, START + DAY, bucket))
    assert len(found) == edges
    assert found[0] <= START
    assert found[-1] >= START + DAY


@given(st.integers(START, START + 800 * DAY), st.sampled_from(BUCKETS))
def test_buckets_touch_without_overlap(instant: int, bucket: str) -> None:
    start = bucket_start(instant, bucket)
    following = bucket_next(start, bucket)
    assert start <= instant < following
    assert bucket_start(following, bucket) == following
    assert bucket_start(following - 1, bucket) == start
