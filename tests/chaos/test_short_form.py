"""The short form of `make chaos`: a minute of faults, every kind at least once, and the whole table at target."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos import plan, report
from chaos.__main__ import run

SEED = 1
SECONDS = 55.0
WORKERS = 3
LEASE_SECONDS = 5.0


def planned() -> list[plan.Planned]:
    return plan.make_plan(SEED, SECONDS, pods=WORKERS, controls=1, every_seconds=1.2, lease_seconds=LEASE_SECONDS)


def test_the_short_form_has_every_kind_of_fault() -> None:
    assert {each.kind for each in planned()} == plan.BY_NAME.keys()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_target_is_met_after_a_minute_of_faults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = run(
        tmp_path,
        planned(),
        seed=SEED,
        seconds=SECONDS,
        workers=WORKERS,
        controls=1,
        lease=LEASE_SECONDS,
        trains=False,
        pace=2.0,
    )
    with capsys.disabled():
        print("\n" + report.table(rows))
    assert report.missed(rows) == []
