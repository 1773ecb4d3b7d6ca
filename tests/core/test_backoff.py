"""Full jitter and Retry-After: bounds, distribution, every form of the header."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pod_worker.core.backoff import backoff_bound, full_jitter, retry_after_seconds

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


@given(st.integers(0, 10**6), st.floats(0, 1e6), st.floats(0, 1e6), st.integers())
def test_a_delay_stays_within_the_cap_and_the_doubled_first_delay(
    retries: int, first: float, cap: float, seed: int
) -> None:
    delay = full_jitter(retries, first, cap, random.Random(seed))
    assert 0 <= delay <= min(cap, first * 2.0 ** min(retries, 30))


def test_the_bound_doubles_until_the_cap() -> None:
    assert [backoff_bound(retries, 0.5, 5) for retries in range(6)] == [0.5, 1, 2, 4, 5, 5]
    assert backoff_bound(-3, 0.5, 5) == 0.5


def test_delays_are_spread_over_the_whole_range() -> None:
    rng = random.Random(7)
    drawn = [full_jitter(2, 10, 900, rng) for _ in range(2000)]
    assert min(drawn) < 2
    assert max(drawn) > 38
    assert 18 < sum(drawn) / len(drawn) < 22


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("1.5", 1.5),
        ("-3", 0.0),
        ("Sun, 01 Mar 2026 12:01:00 GMT", 60.0),
        ("Sunday, 01-Mar-26 12:01:00 GMT", 60.0),
        ("Sun Mar  1 12:01:00 2026", 60.0),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 0.0),
        (None, None),
        ("", None),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("Sun, 99 Mar 2026 12:01:00 GMT", None),
        ("\x00", None),
    ],
)
def test_every_form_of_retry_after_is_read(header: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(header, NOW) == seconds


@given(st.text(max_size=60))
def test_no_header_raises(header: str) -> None:
    found = retry_after_seconds(header, NOW)
    assert found is None or found >= 0


def test_a_date_of_our_own_clock_is_read_back() -> None:
    later = NOW + timedelta(seconds=90)
    assert retry_after_seconds(later.strftime("%a, %d %b %Y %H:%M:%S GMT"), NOW) == 90.0
