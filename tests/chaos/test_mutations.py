"""Every sabotage there is says what must turn red for it, and only that counts as caught."""

from __future__ import annotations

import importlib.util

import pytest

from chaos.arena import INSIDE
from chaos.plan import BY_NAME
from chaos.report import Row
from chaos.sabotage import SABOTAGES, verdict


def test_each_sabotage_has_its_expectation_and_its_faults() -> None:
    spec = importlib.util.spec_from_file_location("sabotage_inside", INSIDE / "mutations.py")
    assert spec is not None
    assert spec.loader is not None
    inside = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(inside)
    assert inside.SABOTAGES.keys() == SABOTAGES.keys()
    assert all(set(each.faults) <= BY_NAME.keys() for each in SABOTAGES.values())


@pytest.mark.parametrize(("red", "is_caught"), [("overlap", True), ("runs lost", False), (None, False)])
def test_only_the_expected_row_counts(red: str | None, is_caught: bool) -> None:
    rows = [Row("overlap", "", "", red != "overlap", ""), Row("runs lost", "", "", red != "runs lost", "")]
    assert verdict(SABOTAGES["self_fence"], rows)[0] == is_caught
