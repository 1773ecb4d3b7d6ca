"""Durations as people write them, wherever they write them."""

from __future__ import annotations

import pytest

from pod_worker.core.duration import DurationError, duration_seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90m", 5400), ("1h30m", 5400), ("2d", 172_800), ("0.5h", 1800), (30, 30), ("30", 30), (0, 0), ("45s", 45)],
)
def test_durations(text: str | float, seconds: float) -> None:
    assert duration_seconds(text) == seconds


@pytest.mark.parametrize("text", ["5 minutes", "", "-1", -1, "1y", "9999999d", "m", "1h 30m", True, float("nan")])
def test_other_texts_are_no_durations(text: str | float) -> None:
    with pytest.raises(DurationError, match="no duration"):
        duration_seconds(text)


def test_a_bare_number_is_refused_where_it_may_mean_days() -> None:
    assert duration_seconds("1h30m", needs_unit=True) == 5400
    with pytest.raises(DurationError, match='give a text such as "90m"'):
        duration_seconds("30", needs_unit=True)
