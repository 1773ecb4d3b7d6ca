"""Learning curves are optional, bounded, and never able to end a node."""

from __future__ import annotations

import json

from pod_worker.tasks.curves import POINTS_LIMIT, read_curves


def write(node, value) -> None:
    (node / "out" / "curves.json").write_text(value if isinstance(value, str) else json.dumps(value))


def test_curves_are_read(node) -> None:
    write(node, [{"name": "train_loss", "steps": [0, 1], "values": [2.5, 1]}])
    found = read_curves(node)
    assert [(curve.name, curve.steps, curve.values) for curve in found.curves] == [
        ("train_loss", (0, 1), (2.5, 1))
    ]
    assert found.problem == ""


def test_no_file_is_no_problem(node) -> None:
    assert read_curves(node) == read_curves(node.parent / "absent")
    assert not read_curves(node).problem


def test_curves_that_cannot_be_shown_are_left_out(node) -> None:
    good = {"name": "a\x1b[2J", "steps": [1], "values": [1]}
    bad = [3, {}, good | {"name": 5}, good | {"values": [1, 2]}, good | {"values": ["1"]}, good | {"values": [True]},
           good | {"steps": [], "values": []}, good | {"values": [10**400]}]  # fmt: skip
    write(node, [good, *bad])
    found = read_curves(node)
    assert [curve.name for curve in found.curves] == ["a"]
    assert found.problem == "8 of 9 curves in curves.json were left out"
    write(node, '[{"name": "a", "steps": [1], "values": [NaN]}]')
    assert read_curves(node).curves == ()


def test_files_and_lists_are_bounded(node) -> None:
    write(node, [{"name": str(each), "steps": list(range(3001)), "values": [0] * 3001} for each in range(25)])
    found = read_curves(node)
    assert len(found.curves) == 20
    assert len(found.curves[0].steps) <= POINTS_LIMIT
    for content in ("nonsense", "{}", "[" * 50_000, " " * 2_000_000):
        write(node, content)
        assert read_curves(node).curves == ()
        assert read_curves(node).problem
