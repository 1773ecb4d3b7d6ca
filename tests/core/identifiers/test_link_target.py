"""Links that stay inside their folder, and all others."""

from __future__ import annotations

import pytest

from pod_worker.core.identifiers.link_target import is_inside


@pytest.mark.parametrize(
    ("path", "target", "expected"),
    [
        ("a", "b", True),
        ("a/b", "../c", True),
        ("a/b", "./../c", True),
        ("a", "../c", False),
        ("a", "./../c", False),
        ("a", "b/../../c", False),
        ("a/b", "c/../d", False),
        ("a", "/b", False),
        ("a", "", False),
        ("a", "b\0c", False),
        ("a", "b" * 4097, False),
    ],
)
def test_a_link_is_inside_by_its_text(path: str, target: str, expected: bool) -> None:
    assert is_inside(path, target) is expected
    assert is_inside(path.encode(), target.encode()) is expected


def test_a_name_that_is_no_unicode_is_outside() -> None:
    assert not is_inside("a", "\udcff")
    assert is_inside(b"a", b"\xff")
