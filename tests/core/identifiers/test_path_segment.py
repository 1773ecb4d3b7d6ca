"""An identifier never names another folder, and two identifiers never share one."""

from __future__ import annotations

import hashlib
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pod_worker.core.identifiers.path_segment import path_segment
from pod_worker.core.identifiers.run_id import RUN_ID_LIMIT, run_id_fault

ANY_TEXT = st.text(alphabet=st.characters(exclude_categories=()), max_size=300)
ROOT = PurePosixPath("/root")


@pytest.mark.parametrize("identifier", ["01JABC", "demo-1", "a.b", "a_b~c", "run-9.tar.gz"])
def test_ordinary_identifiers_stay_as_they_are(identifier: str) -> None:
    assert path_segment(identifier) == identifier


@pytest.mark.parametrize(
    ("identifier", "segment"),
    [
        ("", "%"),
        (".", "%2E"),
        ("..", "%2E."),
        ("/", "%2F"),
        ("/etc", "%2Fetc"),
        ("../../victim", "%2E.%2F..%2Fvictim"),
        ("a\0b", "a%00b"),
        ("50%", "50%25"),
        ("é", "%C3%A9"),
        ("\ud800", "%ED%A0%80"),
    ],
)
def test_every_other_form_is_encoded(identifier: str, segment: str) -> None:
    assert path_segment(identifier) == segment


@given(ANY_TEXT)
def test_a_segment_is_one_visible_name_below_its_folder(identifier: str) -> None:
    segment = path_segment(identifier)
    assert segment
    assert not segment.startswith(".")
    assert len(segment) <= 120
    assert segment.isascii()
    assert (ROOT / segment).parent == ROOT


@given(ANY_TEXT, ANY_TEXT)
def test_different_identifiers_have_different_segments(one: str, other: str) -> None:
    assert (path_segment(one) == path_segment(other)) == (one == other)


def test_a_long_identifier_cannot_be_imitated_by_a_short_one() -> None:
    long = "x" * 500
    digest = hashlib.sha256(long.encode()).hexdigest()
    names = {path_segment(each) for each in (long, digest, f"sha256-{digest}", f"%sha256-{digest}")}
    assert len(names) == 4


@pytest.mark.parametrize(
    ("run_id", "words"),
    [
        (7, "not a string"),
        (None, "not a string"),
        ("", "empty"),
        (".", "begins with a dot"),
        ("..", "begins with a dot"),
        ("../../victim", "begins with a dot"),
        ("/etc", "slash"),
        ("a\\b", "backslash"),
        (" a", "white space"),
        ("a\n", "white space"),
        ("a\x1b[2Jb", "cannot be printed"),
        ("a\u202eb", "cannot be printed"),
        ("a\ufffdb", "cannot be printed"),
        ("x" * (RUN_ID_LIMIT + 1), "201 characters"),
    ],
)
def test_ids_that_a_run_may_not_have(run_id: object, words: str) -> None:
    assert words in (run_id_fault(run_id) or "")


@pytest.mark.parametrize(
    "run_id", ["01JABC", "exp 7: a/b".replace("/", "-"), "a:b", "läuft", "50%", "x" * RUN_ID_LIMIT]
)
def test_ids_that_a_run_may_have(run_id: str) -> None:
    assert run_id_fault(run_id) is None
