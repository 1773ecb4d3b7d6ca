"""The renewal of a lease: what it reports to guard and supervisor, and when it gives up."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from pymongo.database import Database

from pod_worker.core.clock import SystemClock
from pod_worker.core.lease import Lease
from pod_worker.store.queue.operations import OperatorActions
from pod_worker.store.queue.run_queue import ClaimingWorker, RunQueue, RunRequest
from pod_worker.worker.attempt.renewal import Renewer
from tests.store.unreliable import Loss, Unreliable

Db = Database[dict[str, Any]]


class Reports:
    """What a renewer reports; a test can wait for each."""

    def __init__(self, database: Any, *, lease_seconds: float, renew_seconds: float) -> None:
        self.trust: list[float] = []
        self.lost: list[str] = []
        self.is_trusted = threading.Event()
        self.is_canceled = threading.Event()
        self.is_lost = threading.Event()
        clock = SystemClock()
        queue = RunQueue(database, clock, lease_seconds=lease_seconds, margin_seconds=lease_seconds / 4)
        self.renewer = Renewer(
            queue,
            self._lease(queue, clock),
            clock,
            renew_seconds=renew_seconds,
            on_renewed=self._on_renewed,
            on_cancel=self.is_canceled.set,
            on_lost=self._on_lost,
        )

    def _lease(self, queue: RunQueue, clock: SystemClock) -> Lease:
        claim = queue.claim(ClaimingWorker("w", "pod", ("synthetic",), ("synthetic",)))
        assert claim is not None
        return claim.lease

    def _on_renewed(self, seconds: float) -> None:
        self.trust.append(seconds)
        self.is_trusted.set()

    def _on_lost(self, reason: str) -> None:
        self.lost.append(reason)
        self.is_lost.set()


@pytest.fixture
def queued(db: Db) -> Db:
    RunQueue(db, SystemClock()).enqueue(RunRequest("r", "synthetic", {}))
    return db


def test_each_renewal_reports_how_long_to_trust_the_lease(queued: Db) -> None:
    reports = Reports(queued, lease_seconds=60, renew_seconds=0.02)
    first = reports.renewer.lease
    reports.renewer.start()
    assert reports.is_trusted.wait(10)
    reports.renewer.stop()
    assert all(30 < seconds <= 45 for seconds in reports.trust)
    assert reports.renewer.lease.trusted_until > first.trusted_until
    assert not reports.lost


def test_a_cancel_and_a_takeover_are_reported_at_once_when_asked_to_renew_now(queued: Db) -> None:
    reports = Reports(queued, lease_seconds=600, renew_seconds=500)
    reports.renewer.start()
    OperatorActions(queued).cancel("r")
    reports.renewer.renew_now()
    assert reports.is_canceled.wait(10)
    renewals = len(reports.trust)

    OperatorActions(queued).reset("r", force=True)
    reports.renewer.renew_now()
    assert reports.is_lost.wait(10)
    assert "taken away" in reports.lost[0]
    reports.renewer.stop()
    assert len(reports.trust) == renewals, "a lost lease was called trustworthy"


def test_without_an_answer_the_lease_is_given_up_when_the_trust_is_over(queued: Db) -> None:
    loss = Loss.NOTHING
    silent: Any = Unreliable(queued, lambda _call: loss)
    reports = Reports(silent, lease_seconds=1.2, renew_seconds=0.1)
    loss = Loss.REQUEST
    clock = SystemClock()
    reports.renewer.start()
    assert reports.is_lost.wait(10)
    assert 0 <= clock.monotonic() - reports.renewer.lease.trusted_until < 2.0
    assert "MongoDB did not answer" in reports.lost[0]
    assert reports.trust == []
    reports.renewer.stop()
