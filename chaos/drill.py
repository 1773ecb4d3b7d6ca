"""The drill: start, break, heal, drain, stop; it ends with a `ChaosRecord` of everything the checker needs.

One loop in one thread runs a timetable: the plan's strikes and their ends, new runs, fresh workers, cancels of
runs that hang. It never waits for anything the faults could hold up; what blocks goes to a few threads.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from pymongo.errors import PyMongoError

from chaos import evidence, history, injector
from chaos.arena import ChaosCluster
from chaos.history import Change, Recorder
from chaos.journal import Journal
from chaos.plan import Planned
from chaos.pod import Pod
from chaos.sightings import ObservedProcess, ProcessMonitor
from chaos.workload import PlannedRun
from pod_worker.core.clock import SystemClock
from pod_worker.store.collections import PENDING_PROJECTIONS, RUNS
from pod_worker.store.indexes import all_indexes
from pod_worker.store.mongo import Mongo, connect, ensure_indexes
from pod_worker.store.queue.operations import OperatorActions
from pod_worker.store.queue.run_queue import RunQueue, RunRequest

TICK_SECONDS = 0.05
LOOK_SECONDS = 0.5  # how often the queue is looked at
RESTART_SECONDS = 0.5  # a pod's pause before it starts a fresh worker
STOP_SECONDS = 60.0
LEFTOVERS_SECONDS = 60.0
VIEWS_SECONDS = 60.0
# Asked to stop, or killed; -15: asked to before it listened, when it had not claimed anything yet.
FAULT_EXITS = frozenset({0, 143, -9, -15})


@dataclass(frozen=True, slots=True)
class WorkerExit:
    """A worker's end. `is_expected`: the harness did it."""

    pod: str
    name: str
    pid: int
    code: int
    boot: float
    log: Path


@dataclass
class ChaosRecord:
    """All that is known about a drill. The servers still run while it is checked."""

    seed: int
    lease_seconds: float
    orders: dict[str, PlannedRun]
    journal: Journal
    changes: list[Change]
    notes: list[evidence.StepRecord]
    emitted: list[evidence.Emitted]
    dead_letters: list[str]
    sightings: dict[str, list[tuple[float, float]]]
    longest_gap_seconds: float
    ends: list[WorkerExit]
    left: list[ObservedProcess]
    unfinished: list[str]
    skipped: dict[str, str]
    wall_minus_boot: float


@dataclass(order=True)
class _Due:
    at: float
    number: int
    work: Callable[[], None] = field(compare=False)


class ChaosRun:
    def __init__(
        self,
        arena: ChaosCluster,
        plan: Sequence[Planned],
        work: Iterator[PlannedRun],
        journal: Journal,
        *,
        seed: int,
        seconds: float,
        drain_seconds: float,
    ) -> None:
        self._arena, self._plan, self._work, self._journal = arena, list(plan), work, journal
        self._seed, self._seconds, self._drain_seconds = seed, seconds, drain_seconds
        self._timetable: list[_Due] = []
        self._numbers = itertools.count()
        self._orders: dict[str, PlannedRun] = {}
        self._ends: list[WorkerExit] = []
        self._undo: dict[int, Callable[[], None]] = {}
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="chaos")
        self._looking: Future[None] | None = None
        self._is_queueing = True
        self._next_look = 0.0

    def run(self) -> ChaosRecord:
        """Blocks for the whole drill; the arena must have its servers up and nothing else."""
        self._database = connect(self._arena.mongodb_url)
        if self._database[RUNS].estimated_document_count():
            raise ValueError(f"the database {self._database.name} has runs; give the chaos harness an empty one")
        history.prepare(self._database)
        ensure_indexes(self._database, all_indexes())
        self._queue = RunQueue(self._database, SystemClock())
        self._operations = OperatorActions(self._database)
        recorder = Recorder(self._database)
        recorder.start()
        sightings = self._sightings = ProcessMonitor(self._arena.pods_dir)
        sightings.start()
        self._arena.start_controls()
        self._fill_queue()
        self._arena.start_pods()
        skipped = injector.unavailable(self._arena)
        began = time.monotonic()
        for planned in self._plan:
            if planned.kind not in skipped:
                self._at(began + planned.at, partial(self._strike, planned))
        self._journal.note("began", seconds=self._seconds)
        self._loop(until=began + self._seconds)
        self._heal()
        unfinished = self._drain()
        return self._conclude(recorder, sightings, unfinished, skipped)

    # ── the timetable ───────────────────────────────────────────────────────────────────────────────────

    def _at(self, when: float, work: Callable[[], None]) -> None:
        heapq.heappush(self._timetable, _Due(when, next(self._numbers), work))

    def _loop(self, until: float, is_done: Callable[[], bool] = lambda: False) -> None:
        while (now := time.monotonic()) < until and not is_done():
            while self._timetable and self._timetable[0].at <= now:
                heapq.heappop(self._timetable).work()
            self._tend_pods(now)
            self._look()
            time.sleep(TICK_SECONDS)

    def _strike(self, planned: Planned) -> None:
        given = injector.FaultContext(planned, self._arena, self._operations, self._sightings, self._pool)
        undo = injector.inject(given, self._journal)
        if undo is None:
            return
        number = next(self._numbers)
        self._undo[number] = partial(self._end, number, undo, planned.kind, given.target_name)
        self._at(time.monotonic() + planned.seconds, self._undo[number])

    def _end(self, number: int, undo: Callable[[], None], kind: str, target: str) -> None:
        if self._undo.pop(number, None) is not None:
            undo()
            self._journal.note("heal", kind, target)

    # ── pods ────────────────────────────────────────────────────────────────────────────────────────────

    def _tend_pods(self, now: float) -> None:
        for pod in self._arena.pods:
            for process, code in pod.reap():
                entry = self._journal.note("worker ended", process.name, pod.name, code=code)
                self._ends.append(
                    WorkerExit(pod.name, process.name, process.pid, code, entry.boot, process.log_path)
                )
                if not pod.processes:
                    self._at(now + RESTART_SECONDS, partial(self._start_worker, pod))

    def _start_worker(self, pod: Pod) -> None:
        if not pod.processes:
            process = pod.start_worker()
            self._journal.note("worker began", process.name, pod.name, pid=process.pid)

    # ── the queue ───────────────────────────────────────────────────────────────────────────────────────

    def _look(self) -> None:
        """At the queue, in a thread: it may be away."""
        if self._looking is None or self._looking.done():
            self._looking = self._pool.submit(self._look_now)

    def _look_now(self) -> None:
        try:
            if self._is_queueing:
                self._fill_queue()
            self._cancel_hung()
        except PyMongoError:
            pass  # a failover; the next look will do
        time.sleep(LOOK_SECONDS)

    def _fill_queue(self) -> None:
        """Always some runs waiting, so that no worker is idle for want of work."""
        waiting = self._database[RUNS].count_documents({"status": "QUEUED"})
        for order in itertools.islice(self._work, max(0, 2 * len(self._arena.pods) + 2 - waiting)):
            self._orders[order.id] = order
            request = RunRequest(order.id, order.pipeline, order.params, labels=order.labels)
            injector.insist(lambda request=request: self._queue.enqueue(request))  # type: ignore[misc]

    def _cancel_hung(self) -> None:
        """What hangs on purpose waits for a person who has had enough."""
        wanted = {"status": "RUNNING", "labels.shape": "hanging", "cancelRequestedAt": None}
        for document in self._database[RUNS].find(wanted, {"claimedAt": 1}):
            order = self._orders[str(document["_id"])]
            if time.time() > history.seconds(document["claimedAt"]) + order.patience_seconds:
                self._operations.cancel(order.id, by="chaos", reason="it hangs")

    # ── the end ─────────────────────────────────────────────────────────────────────────────────────────

    def _heal(self) -> None:
        self._timetable = [due for due in self._timetable if not self._is_strike(due)]
        for end in list(self._undo.values()):
            end()
        self._is_queueing = False
        self._journal.note("healed", detail=f"{len(self._orders)} runs were queued")

    @staticmethod
    def _is_strike(due: _Due) -> bool:
        return isinstance(due.work, partial) and due.work.func.__name__ in ("_strike", "_end")

    def _drain(self) -> list[str]:
        """Wait until every run has ended; what has not after the time allowed is returned."""
        self._loop(time.monotonic() + self._drain_seconds, self._is_drained)
        left = [str(each["_id"]) for each in self._database[RUNS].find(_OPEN, {"_id": 1})]
        self._journal.note("drained", left=left)
        return left

    def _is_drained(self) -> bool:
        if time.monotonic() < self._next_look:
            return False
        self._next_look = time.monotonic() + LOOK_SECONDS
        try:
            # Retries wait for many seconds after a failure; there is nothing to learn from those waits here.
            self._database[RUNS].update_many({"status": "QUEUED"}, {"$unset": {"runAfter": ""}})
            return self._database[RUNS].count_documents(_OPEN, limit=1) == 0
        except PyMongoError:
            return False

    def _conclude(
        self, recorder: Recorder, sightings: ProcessMonitor, unfinished: list[str], skipped: dict[str, str]
    ) -> ChaosRecord:
        if self._looking is not None:
            self._looking.result(30)
        stuck = self._arena.stop_workers(STOP_SECONDS)
        for process in stuck:
            self._journal.note("worker stuck", process.name)
        self._tend_pods(time.monotonic())
        self._deliver_leftovers()
        self._await_views()
        self._pool.shutdown()
        changes = recorder.finish()
        intervals = dict(sightings.stop())
        emitted: list[evidence.Emitted] = []
        dead_letters: list[str] = []
        for pod in self._arena.pods:
            of_pod, dead = evidence.read_spools(pod.name, pod.spool_dir)
            emitted += of_pod
            dead_letters += dead
        return ChaosRecord(
            seed=self._seed,
            lease_seconds=self._arena.timing.lease,
            orders=self._orders,
            journal=self._journal,
            changes=changes,
            notes=evidence.read_notes({pod.name: pod.evidence for pod in self._arena.pods}),
            emitted=emitted,
            dead_letters=dead_letters,
            sightings=intervals,
            longest_gap_seconds=sightings.longest_gap_seconds,
            ends=self._ends,
            left=sightings.left(),
            unfinished=unfinished,
            skipped=skipped,
            wall_minus_boot=time.time() - time.clock_gettime(time.CLOCK_BOOTTIME),
        )

    def _deliver_leftovers(self) -> None:
        """Events that the last worker of a pod could not deliver are for the next worker there: be that."""
        waiting = [pod for pod in self._arena.pods if pod.undelivered_bytes()]
        for pod in waiting:
            self._journal.note("leftovers", "", pod.name, bytes=pod.undelivered_bytes())
            pod.start_worker()
        end = time.monotonic() + LEFTOVERS_SECONDS
        while any(pod.undelivered_bytes() for pod in waiting) and time.monotonic() < end:
            time.sleep(LOOK_SECONDS)
        self._arena.stop_workers(STOP_SECONDS)
        self._tend_pods(time.monotonic())

    def _await_views(self) -> None:
        """The views of what an ingest stored just before it was killed are another one's to write."""
        end = time.monotonic() + VIEWS_SECONDS
        while self._database[PENDING_PROJECTIONS].count_documents({}, limit=1) and time.monotonic() < end:
            time.sleep(LOOK_SECONDS)
        self._journal.note("views", pending=self._database[PENDING_PROJECTIONS].count_documents({}))

    @property
    def database(self) -> Mongo:
        return self._database


_OPEN = {"status": {"$nin": sorted(history.TERMINAL)}}
