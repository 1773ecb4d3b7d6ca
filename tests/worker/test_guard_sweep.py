"""The order of the sweep. A tree that answers each death with a birth cannot be timed reliably, so the orders
themselves are looked at."""

from __future__ import annotations

import os
import signal

import pytest

from pod_worker.worker import guard


def test_a_whole_tree_is_stopped_before_any_of_it_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = [[11, 12, 13], [14], []]
    orders: list[tuple[int, int]] = []
    monkeypatch.setattr(guard, "descendants", lambda root: rounds.pop(0))
    monkeypatch.setattr(guard, "_send", lambda pid, order: orders.append((order, pid)))

    assert guard.kill_tree(os.getpid()) == 0

    stop, kill = signal.SIGSTOP, signal.SIGKILL
    assert orders == [
        (stop, 11),
        (stop, 12),
        (stop, 13),
        (kill, 11),
        (kill, 12),
        (kill, 13),
        (stop, 14),
        (kill, 14),
    ]


def test_what_cannot_be_killed_is_counted_and_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "descendants", lambda root: [11, 12])
    monkeypatch.setattr(guard, "_send", lambda pid, order: None)
    assert guard.kill_tree(os.getpid(), seconds=0.05) == 2
