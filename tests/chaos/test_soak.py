"""The verdict of a soak names what grew, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chaos.soak import Sample, verdict

WARM = Sample(100, 1.0, 12, 9, 50.0, 10, 100, 400, 1.0)
FLAT = replace(WARM, runs=1000, fds=13, rss_mb=54.0, work_folders=20, spool_streams=600, spool_files=2400)


def test_a_worker_that_holds_what_it_held_is_flat() -> None:
    assert verdict([replace(WARM, runs=0), WARM, FLAT], kept_folders=20) == []


@pytest.mark.parametrize(
    ("grown", "word"),
    [
        ({"fds": 15}, "fds: 12 -> 15"),
        ({"threads": 12}, "threads"),
        ({"rss_mb": 56.0}, "rss"),
        ({"work_folders": 21}, "work folders"),
    ],
)
def test_growth_is_named(grown: dict[str, int], word: str) -> None:
    (found,) = verdict([replace(WARM, runs=0), WARM, replace(FLAT, **grown)], kept_folders=20)
    assert word in found
