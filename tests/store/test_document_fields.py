"""Readers of fields are total: every BSON type has a value or a default, and no reader raises."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from bson.datetime_ms import DatetimeMS
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from hypothesis import given

from pod_worker.store.document_fields import counter, finite, integer, mapping, moment, plain_json, text, typed
from tests.store.foreign_documents import VALUES

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@given(VALUES)
def test_no_reader_raises(value: Any) -> None:
    document = {"field": value}
    assert isinstance(text(document, "field"), str | None)
    assert isinstance(moment(document, "field"), datetime | None)
    assert isinstance(mapping(document, "field"), dict)
    assert isinstance(typed(document, "field", list), list | None)
    for number in (integer(value), counter(value)):
        assert number is None or type(number) is int
    assert finite(value) is None or abs(finite(value) or 0) < float("inf")
    json.dumps(plain_json(document), allow_nan=False)


@pytest.mark.parametrize(
    ("value", "number"),
    [(3, 3), (3.0, 3), (Int64(7), 7), (-1, -1), (2**62, 2**62), (2.5, None), (True, None), ("3", None),
     (float("nan"), None), (float("inf"), None), (Decimal128("3"), None), (None, None)],
)  # fmt: skip
def test_integers_are_read_from_every_client(value: Any, number: int | None) -> None:
    assert integer(value) == number


@pytest.mark.parametrize(
    ("value", "number"), [(0, 0), (5.0, 5), (-1, None), (2**40, None), (10**8 - 1, 10**8 - 1), (10**8, None)]
)
def test_counters_are_bounded(value: Any, number: int | None) -> None:
    assert counter(value) == number


def test_json_keeps_what_it_can_hold() -> None:
    assert plain_json({"a": [1, 0.5, None, True, "x"], "b": {"c": NOW}}) == {
        "a": [1, 0.5, None, True, "x"],
        "b": {"c": "2026-01-01T00:00:00+00:00"},
    }
    assert plain_json({"n": float("nan"), "far": DatetimeMS(2**60), "raw": b"\xff"}) == {
        "n": None, "far": 2**60, "raw": "/w==",
    }  # fmt: skip
