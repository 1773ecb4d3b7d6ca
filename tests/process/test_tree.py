"""The sweep of a process tree: in which order it kills, and that it ends.

A tree that answers each death with a birth cannot be timed reliably, so the tests look at the signals sent.
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

    assert tree.kill_tree(os.getpid()) == 0

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
    assert tree.kill_tree(os.getpid(), seconds=0.05) == 2


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
