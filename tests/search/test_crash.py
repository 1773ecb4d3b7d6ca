"""A process that is killed at any point loses no finished node and pays nothing twice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pod_worker.search.tree.journal import read_state
from tests.search.fakes import tree_of

ROOT = Path(__file__).resolve().parent.parent.parent
NEVER = 10**9


def run(folder, seed, reach, slots=1):
    command = [sys.executable, "-m", "tests.search.killed_search", str(folder), str(seed), str(reach), str(slots)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["killed"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert run(folder, 0, NEVER) == 0
    return folder


def paid(folder):
    return sorted((folder / "paid").read_text().splitlines())


def test_killed_at_random_points_the_tree_and_the_payments_are_those_of_an_uninterrupted_search(
    tmp_path, uninterrupted
):
    assert run(tmp_path, 1, 25) >= 30
    assert tree_of(read_state(tmp_path / "search")) == tree_of(read_state(uninterrupted / "search"))
    assert paid(tmp_path) == paid(uninterrupted)
    assert len(set(paid(tmp_path))) == len(paid(tmp_path))
    samples = [int(line.split()[2]) for line in paid(tmp_path)]
    assert any(sample % 2 for sample in samples), "a duplicate was asked for again"


def test_with_several_slots_nothing_is_lost_and_nothing_is_paid_twice(tmp_path):
    assert run(tmp_path, 2, 40, slots=3) >= 10
    assert len(set(paid(tmp_path))) == len(paid(tmp_path))
    state = read_state(tmp_path / "search")
    assert len(state.reasons) == 4
    assert all(node.is_settled for node in state.nodes.values())
