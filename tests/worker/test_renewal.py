"""The thread that keeps a lease: what it tells the guard, what it passes on, and when it gives up."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from pymongo.database import Database

from pod_worker.core.clock import SystemClock
from pod_worker.core.lease import Lease
from pod_worker.store.queue.operations import OperatorActions
from pod_worker.store.queue.run_queue import ClaimingWorker, RunQueue, RunRequest
from pod_worker.worker.renewal import Renewer
from tests.store.unreliable import Loss, Unreliable

Db = Database[dict[str, Any]]


class Heard:
    """What a renewer says; every word can be waited for."""

    def __init__(self, database: Any, *, lease_seconds: float, every_seconds: float) -> None:
        self.trust: list[float] = []
        self.lost: list[str] = []
        self.is_told = threading.Event()
        self.is_canceled = threading.Event()
        self.is_lost = threading.Event()
        clock = SystemClock()
        queue = RunQueue(database, clock, lease_seconds=lease_seconds, margin_seconds=lease_seconds / 4)
        self.renewer = Renewer(
            queue,
            self._lease(queue, clock),
            clock,
            every_seconds=every_seconds,
            on_trust=self._on_trust,
            on_cancel=self.is_canceled.set,
            on_lost=self._on_lost,
        )

    def _lease(self, queue: RunQueue, clock: SystemClock) -> Lease:
        claim = queue.claim(ClaimingWorker("w", "pod", ("synthetic",), ("synthetic",)))
        assert claim is not None
        return claim.lease

    def _on_trust(self, seconds: float) -> None:
        self.trust.append(seconds)
        self.is_told.set()

    def _on_lost(self, why: str) -> None:
        self.lost.append(why)
        self.is_lost.set()


@pytest.fixture
def queued(db: Db) -> Db:
    RunQueue(db, SystemClock()).enqueue(RunRequest("r", "synthetic", {}))
    return db


def test_each_renewal_tells_the_guard_how_long_to_trust(queued: Db) -> None:
    heard = Heard(queued, lease_seconds=60, every_seconds=0.02)
    first = heard.renewer.lease
    heard.renewer.start()
    assert heard.is_told.wait(10)
    heard.renewer.stop()
    assert all(30 < seconds <= 45 for seconds in heard.trust)
    assert heard.renewer.lease.trusted_until > first.trusted_until
    assert not heard.lost


def test_a_cancel_and_a_takeover_are_passed_on_at_once_when_somebody_kicks(queued: Db) -> None:
    heard = Heard(queued, lease_seconds=600, every_seconds=500)
    heard.renewer.start()
    OperatorActions(queued).cancel("r")
    heard.renewer.kick()
    assert heard.is_canceled.wait(10)
    told = len(heard.trust)

    OperatorActions(queued).reset("r", force=True)
    heard.renewer.kick()
    assert heard.is_lost.wait(10)
    assert "taken away" in heard.lost[0]
    heard.renewer.stop()
    assert len(heard.trust) == told, "a lost lease was called trustworthy"


def test_without_an_answer_the_lease_is_given_up_when_the_trust_is_over(queued: Db) -> None:
    loss = Loss.NOTHING
    silent: Any = Unreliable(queued, lambda _call: loss)
    heard = Heard(silent, lease_seconds=1.2, every_seconds=0.1)
    loss = Loss.REQUEST
    clock = SystemClock()
    heard.renewer.start()
    assert heard.is_lost.wait(10)
    assert 0 <= clock.monotonic() - heard.renewer.lease.trusted_until < 2.0
    assert "MongoDB did not answer" in heard.lost[0]
    assert heard.trust == []
    heard.renewer.stop()
