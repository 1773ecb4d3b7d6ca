"""The sweep of a process tree: in which order it kills, and that it ends.

The order is seen in the signals sent. `tests/worker/test_guard_sweep.py` has real trees.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from pod_worker.process import tree


def test_a_whole_tree_is_stopped_before_any_of_it_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = [[11, 12, 13], [14], []]
    signals: list[tuple[int, int]] = []
    monkeypatch.setattr(tree, "descendants", lambda root, spared: rounds.pop(0))
    monkeypatch.setattr(tree, "send_signal", lambda pid, number: signals.append((number, pid)))
    monkeypatch.setattr(tree, "_groups", lambda members: [])

    assert tree.kill_tree(os.getpid(), spared=tree.children(os.getpid())) == 0

    stop, kill = signal.SIGSTOP, signal.SIGKILL
    assert signals == [
        (stop, 11),
        (stop, 12),
        (stop, 13),
        (kill, 11),
        (kill, 12),
        (kill, 13),
        (stop, 14),
        (kill, 14),
    ]


def test_what_cannot_be_killed_is_counted_and_the_sweep_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "descendants", lambda root, spared: [11, 12])
    monkeypatch.setattr(tree, "send_signal", lambda pid, number: None)
    monkeypatch.setattr(tree, "_groups", lambda members: [])
    assert tree.kill_tree(os.getpid(), seconds=0.05) == 2


def test_a_group_is_signalled_as_one_and_new_processes_are_chased(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[list[int]] = [[11], []]
    signals: list[tuple[int, int]] = []
    chases: list[int] = []
    monkeypatch.setattr(tree, "descendants", lambda root, spared: rounds.pop(0))
    monkeypatch.setattr(tree, "send_signal", lambda pid, number: signals.append((number, pid)))
    monkeypatch.setattr(tree, "_groups", lambda members: [10] if members else [])
    monkeypatch.setattr(tree, "_has_child", lambda: bool(rounds))
    monkeypatch.setattr(tree, "_chase", lambda root, known: chases.append(root))
    assert tree.kill_tree(os.getpid()) == 0
    assert signals == [(number, pid) for number in (signal.SIGSTOP, signal.SIGKILL) for pid in (-10, 11)]
    assert chases == [os.getpid()]


def test_a_look_that_sees_nothing_is_not_trusted_while_we_have_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [True, True, False]
    monkeypatch.setattr(tree, "descendants", lambda root, spared: [])
    monkeypatch.setattr(tree, "_has_child", lambda: answers.pop(0))
    monkeypatch.setattr(tree, "_chase", lambda root, known: 0)
    assert tree.kill_tree(os.getpid()) == 0
    assert answers == []


def test_children_that_end_in_quick_succession_do_not_keep_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = iter(range(2, 10**9))
    monkeypatch.setattr(os, "waitpid", lambda pid, options: (next(numbers), 0))
    assert len(tree.reap()) == tree.REAP_LIMIT


def test_groups_are_those_of_the_tree_and_never_our_own() -> None:
    child = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        assert tree._groups([child.pid, os.getpid(), 2**30]) == [child.pid]
    finally:
        child.kill()
        child.wait()


def test_a_spared_tree_is_not_below_us() -> None:
    parent = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    child = subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE)
    try:
        while not tree.descendants(child.pid):
            assert child.poll() is None
        assert {child.pid, *tree.descendants(child.pid)} <= set(tree.descendants(os.getpid()))
        found = tree.descendants(os.getpid(), spared={child.pid})
        assert not {child.pid, *tree.descendants(child.pid)} & set(found)
    finally:
        child.communicate(b"\n")
