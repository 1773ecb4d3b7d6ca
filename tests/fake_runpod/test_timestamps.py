from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pod_worker.fake_runpod import timestamps
from pod_worker.fake_runpod.cloud.clock import VirtualClock
from pod_worker.fake_runpod.timestamps import DAY, SECOND

YEAR_2026 = 1_767_225_600 * SECOND


@given(st.integers(0, 4_000_000_000 * SECOND))
def test_nanosecond_stamps_survive_the_round_trip(instant: int) -> None:
    assert timestamps.parse(timestamps.rfc3339_nano(instant)) == instant


@given(st.integers(0, DAY), st.integers(0, DAY))
def test_the_text_order_of_stamps_is_the_order_of_time(a: int, b: int) -> None:
    assert (a < b) == (timestamps.rfc3339_nano(a) < timestamps.rfc3339_nano(b))


def test_every_spelling_of_one_instant() -> None:
    instant = YEAR_2026 + 120_000_000
    assert timestamps.rfc3339(YEAR_2026) == "2026-01-01T00:00:00Z"
    assert timestamps.rfc3339(instant) == "2026-01-01T00:00:00.120Z"
    assert timestamps.go_format(instant) == "2026-01-01 00:00:00.120 +0000 UTC"
    assert (
        timestamps.javascript_format(instant) == "Thu Jan 01 2026 00:00:00 GMT+0000 (Coordinated Universal Time)"
    )
    assert timestamps.parse("2026-01-01T02:00:00.120+02:00") == instant


@pytest.mark.parametrize("text", ["", "yesterday", "2026-01-01", "2026-13-01T00:00:00Z"])
def test_what_is_no_instant_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        timestamps.parse(text)


def test_the_clock_runs_at_its_speed_and_steps() -> None:
    real = [0]
    clock = VirtualClock(1000 * SECOND, speed=60, monotonic_ns=lambda: real[0])
    real[0] = 2 * SECOND
    assert clock.now_ns() == 1120 * SECOND
    clock.set_speed(0)
    real[0] = 99 * SECOND
    assert clock.now_ns() == 1120 * SECOND
    assert clock.step(0.5) == 1120 * SECOND + SECOND // 2
    assert VirtualClock(0, speed=4).real_seconds(10) == 2.5


def test_the_clock_never_goes_back() -> None:
    with pytest.raises(ValueError, match="backwards"):
        VirtualClock(0).step(-1)
    with pytest.raises(ValueError, match="speed"):
        VirtualClock(0, speed=-1)
