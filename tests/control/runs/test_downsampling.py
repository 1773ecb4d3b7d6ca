"""Thinning a curve: never a point that was not there, always both ends and the spike."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pod_worker.control.runs.downsampling import lttb

CURVES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300)


@given(values=CURVES, wanted=st.integers(1, 50))
def test_places_are_ordered_unique_and_bounded(values: list[float], wanted: int) -> None:
    points = [(float(place), value) for place, value in enumerate(values)]
    kept = lttb(points, wanted)
    assert kept == sorted(set(kept))
    assert (kept[0], kept[-1]) == (0, len(points) - 1)
    assert len(kept) == min(len(points), max(3, wanted))


def test_a_spike_survives() -> None:
    points = [(float(x), 100.0 if x == 777 else 0.0) for x in range(1000)]
    assert 777 in lttb(points, 20)
