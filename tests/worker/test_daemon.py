"""The daemon over many runs: nothing piles up, no error of one run ends it, and its threads are watched."""

from __future__ import annotations

import os
import random
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from pod_worker.core.clock import SystemClock
from pod_worker.core.run import Requirements
from pod_worker.core.worker_offer import WorkerOffer
from pod_worker.outbox.emitter import PodEmitter, RunEmitter
from pod_worker.outbox.ids import UlidGenerator
from pod_worker.outbox.shipper import Shipper
from pod_worker.outbox.spool import Spool
from pod_worker.process.supervised_thread import SupervisedThread
from pod_worker.store.ideation.sweep import IdeationSweep
from pod_worker.store.queue.rescue import Rescue
from pod_worker.store.queue.run_queue import RunQueue, RunRequest
from pod_worker.store.worker_registry import WorkerRegistry, WorkerState
from pod_worker.worker import daemon as daemons
from pod_worker.worker.attempt import supervisor
from pod_worker.worker.attempt.attempt_environment import AttemptEnvironment
from pod_worker.worker.daemon import (
    Daemon,
    ExitLimits,
    ShutdownRequest,
    WorkerIntervals,
    WorkerOutbox,
    WorkerStore,
)
from pod_worker.worker.isolation.attempt_tag import AttemptTag
from pod_worker.worker.isolation.child_user import ChildUser
from pod_worker.worker.isolation.guarded_child import ChildCommand
from pod_worker.worker.machine import Machine
from pod_worker.worker.work_folders import WorkFolders
from tests.worker.hostile import IDENTITY, PRELUDE, TIMEOUTS

Db = Database[dict[str, Any]]
MakeDaemon = Callable[..., Daemon]


@pytest.fixture
def make_daemon(db: Db, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeDaemon]:
    """A daemon on a real queue, spool and shipper (without a control plane), whose runs are `program`."""
    clock = SystemClock()
    spool = Spool.open(tmp_path / "spool", IDENTITY.worker_id)
    new_id = UlidGenerator(clock)

    def make(program: str = "succeed()", **limits: Any) -> Daemon:
        def command(
            tag: AttemptTag, env: Mapping[str, str], user: ChildUser | None, *, needs_sandbox: bool = False
        ) -> ChildCommand:
            return ChildCommand([sys.executable, "-I", "-S", "-c", PRELUDE + program], env, tag)

        monkeypatch.setattr(supervisor, "child_command", command)
        return Daemon(
            IDENTITY,
            WorkerStore(RunQueue(db, clock), Rescue(db), WorkerRegistry(db), watch=lambda _wake: None),
            WorkerOutbox(
                Shipper([spool], "http://127.0.0.1:9", None),
                PodEmitter(spool, "test", "pod-0", clock, new_id),
                lambda run_id, attempt: RunEmitter(spool, "test", run_id, attempt, clock, new_id),
            ),
            AttemptEnvironment(
                spool.directory,
                spool.max_bytes,
                WorkFolders(tmp_path / "work"),
                "http://127.0.0.1:9",
                None,
                dict(os.environ),
            ),
            checks=[],
            machine=Machine(tmp_path),
            clock=clock,
            intervals=WorkerIntervals(poll_seconds=0.05, flush_seconds=0.0),
            timeouts=TIMEOUTS,
            limits=ExitLimits(**limits),
            shutdown=ShutdownRequest(),
            rng=random.Random(1),
        )

    yield make
    spool.close()


def enqueue(db: Db, count: int, prefix: str = "r") -> None:
    queue = RunQueue(db, SystemClock())
    for number in range(count):
        queue.enqueue(RunRequest(f"{prefix}{number}", "synthetic", {}))


def test_a_run_that_the_disk_no_longer_holds_is_left_for_another_worker(
    db: Db, make_daemon: MakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is measured at each claim, not once."""
    daemon = make_daemon(exit_when_idle_seconds=0)
    offers = iter([WorkerOffer(disk_gb=10), *[WorkerOffer(disk_gb=1)] * 9])
    monkeypatch.setattr(daemon._machine, "offer", lambda _region: next(offers))
    daemon.shutdown()  # reports the first offer
    assert (db.workers.find_one() or {})["offer"]["diskGb"] == 10
    RunQueue(db, SystemClock()).enqueue(RunRequest("r", "synthetic", {}, requirements=Requirements(disk_gb=5)))
    assert daemon._claim() is None


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_descriptors_threads_and_folders_stay_flat_over_many_runs(
    db: Db, tmp_path: Path, make_daemon: MakeDaemon
) -> None:
    counts: list[tuple[int, int]] = []
    for batch, runs in enumerate((2, 20, 20)):
        enqueue(db, runs, f"batch{batch}-")
        assert make_daemon(max_runs=runs).run() == daemons.EXIT_OK
        counts.append((descriptors(), threading.active_count()))
    assert db.runs.count_documents({"status": "COMPLETED"}) == 42
    grown = [max(numbers) - numbers[0] for numbers in zip(*counts, strict=True)]
    assert grown[0] <= 5, f"descriptors and threads after 2, 22 and 42 runs: {counts}"
    assert grown[1] <= 1, f"descriptors and threads after 2, 22 and 42 runs: {counts}"
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize(("program", "cleanings"), [("os._exit(1)", 1), ("succeed()", 0)])
def test_folders_are_cleaned_after_each_run_that_leaves_one(
    db: Db, make_daemon: MakeDaemon, monkeypatch: pytest.MonkeyPatch, program: str, cleanings: int
) -> None:
    """Once an hour would let a thousand failed runs fill the disk."""
    enqueue(db, 1)
    daemon, woken = make_daemon(program, max_runs=1), list[bool]()
    monkeypatch.setattr(daemon._cleaning, "wake", lambda: woken.append(True))
    daemon.run()
    assert len(woken) == cleanings


def test_an_error_of_the_supervision_does_not_end_the_worker(
    db: Db, make_daemon: MakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue(db, 2)
    daemon = make_daemon(max_runs=2)
    original = daemon._supervise
    faults = iter([RuntimeError("a defect"), None])

    def supervise(*arguments: Any) -> Any:
        if fault := next(faults):
            raise fault
        return original(*arguments)

    monkeypatch.setattr(daemon, "_supervise", supervise)
    monkeypatch.setattr(daemons, "ERROR_PAUSE_SECONDS", 0.01)
    assert daemon.run() == daemons.EXIT_FAILED
    assert db.runs.count_documents({"status": "COMPLETED"}) == 1


def test_an_error_that_is_not_mongodbs_does_not_end_the_claiming(
    db: Db, make_daemon: MakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue(db, 1)
    daemon = make_daemon(max_runs=1)
    claim = daemon._store.queue.claim
    faults = iter([ValueError("cannot convert float NaN to integer"), None])

    def failing_claim(*arguments: Any) -> Any:
        if fault := next(faults):
            raise fault
        return claim(*arguments)

    monkeypatch.setattr(daemon._store.queue, "claim", failing_claim)
    assert daemon.run() == daemons.EXIT_OK


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (None, "there is no run wanted"),
        (RunRequest("wanted", "synthetic", {}, queue="nightly"), "add --queue nightly"),
    ],
)
def test_a_worker_for_a_run_that_it_can_never_claim_says_so_and_exits(
    db: Db, make_daemon: MakeDaemon, caplog: pytest.LogCaptureFixture, run: RunRequest | None, message: str
) -> None:
    if run:
        RunQueue(db, SystemClock()).enqueue(run)
    assert make_daemon(run_id="wanted").run() == daemons.EXIT_NOT_FOUND
    assert message in caplog.text


def test_a_request_of_a_front_end_is_carried_out_by_an_idle_worker(db: Db, make_daemon: MakeDaemon) -> None:
    db.hypotheses.insert_one({"_id": "h1", "title": "t", "idea": "x"})
    db.ideation_requests.insert_one({"_id": "q1", "hypothesisId": "h1", "status": "QUEUED"})
    daemon = make_daemon(max_runs=1)
    sweep = IdeationSweep(db, RunQueue(db, SystemClock()))
    daemon._store = replace(daemon._store, ideation=sweep)
    daemon._identity = replace(daemon._identity, queues=("ideation",), pipelines=("ideation",))
    assert daemon.run() == daemons.EXIT_OK
    assert db.runs.count_documents({"_id": "q1", "status": "COMPLETED"}) == 1
    sweep.run()
    assert db.ideation_requests.count_documents({"_id": "q1", "status": "COMPLETED"}) == 1


def test_a_dead_thread_turns_the_state_of_the_worker_red(db: Db, make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    fails = SupervisedThread("watched", lambda: 1 / 0, backoff_seconds=(0.001, 0.001), log=lambda _: None)
    daemon._threads = [fails]
    daemon._report_state()
    [worker] = WorkerRegistry(db).list()
    assert (worker.state, worker.reason) == (WorkerState.IDLE.value, None)

    fails.start()
    while not daemon.thread_problems():
        assert fails.failures < 1000
    daemon._report_state()
    fails.stop()
    [worker] = WorkerRegistry(db).list()
    assert worker.state == WorkerState.UNHEALTHY.value
    assert "thread watched failed" in (worker.reason or "")
