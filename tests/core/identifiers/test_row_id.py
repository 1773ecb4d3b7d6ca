"""Rows of different runs, stages and artifacts never share an id."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pod_worker.core.identifiers.row_id import row_id

PARTS = st.text(alphabet="ab:%3A25", max_size=6)


def test_ordinary_parts_are_joined() -> None:
    assert row_id("01JABC", "Stage_1") == "01JABC:Stage_1"
    assert row_id("01JABC", "plot", "ff00") == "01JABC:plot:ff00"


def test_a_colon_in_one_part_is_no_border() -> None:
    assert row_id("a", "b:c") != row_id("a:b", "c")


@given(PARTS, PARTS, PARTS, PARTS)
def test_different_parts_give_different_ids(run: str, key: str, other_run: str, other_key: str) -> None:
    assert (row_id(run, key) == row_id(other_run, other_key)) == ((run, key) == (other_run, other_key))


@given(PARTS, PARTS, PARTS)
def test_ids_can_be_nested(run: str, kind: str, name: str) -> None:
    assert row_id(run, row_id(kind, name)) == row_id(run, kind, name)
