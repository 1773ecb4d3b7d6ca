"""The worker daemon: startup, main loop, shutdown.

One run at a time, until a signal or a limit ends it.

Signal handlers only set flags. An idle worker costs MongoDB one query per poll and, now and then, one sweep for
dead workers' runs; a change stream wakes it in between. While a run executes, the supervisor does the work.
"""

from __future__ import annotations

import logging
import os
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from pymongo.errors import PyMongoError

from pod_worker.core.clock import Clock
from pod_worker.core.outcome import Failed, Succeeded
from pod_worker.core.payload import RunLog
from pod_worker.core.run import TERMINAL, RunStatus
from pod_worker.core.stage import EventEmitter
from pod_worker.core.worker_offer import WorkerOffer
from pod_worker.outbox.emitter import RunEmitter
from pod_worker.outbox.shipper import Shipper
from pod_worker.process.supervised_thread import SupervisedThread, every
from pod_worker.store.errors import describe_error
from pod_worker.store.ideation.sweep import IdeationSweep
from pod_worker.store.queue.change_stream import QueueWatcher
from pod_worker.store.queue.rescue import Rescue
from pod_worker.store.queue.run_queue import Claim, RunQueue
from pod_worker.store.worker_registry import WorkerRegistry, WorkerState
from pod_worker.worker.attempt.attempt_environment import AttemptEnvironment
from pod_worker.worker.attempt.end_sequence import StopTimeouts
from pod_worker.worker.attempt.ending import end_detail
from pod_worker.worker.attempt.supervisor import AttemptResult, Supervisor
from pod_worker.worker.heartbeat import heartbeat_thread
from pod_worker.worker.identity import WorkerIdentity
from pod_worker.worker.machine import Machine
from pod_worker.worker.preflight import Check, PreflightFailure, run_checks

log = logging.getLogger(__name__)

EXIT_OK, EXIT_FAILED, EXIT_NOT_FOUND, EXIT_TEMPORARY, EXIT_TERMINATED = 0, 1, 3, 75, 143
PREFLIGHT_RETRY_SECONDS = (2.0, 30.0)  # the first pause, doubled up to the last: a short outage costs little
REGISTER_SECONDS = 60.0
RESCUE_SECONDS = 15.0
CLEAN_SECONDS = 3600.0
ERROR_PAUSE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class WorkerIntervals:
    poll_seconds: float = 10.0
    renew_seconds: float = 15.0
    heartbeat_seconds: float = 15.0
    rescue_seconds: float = RESCUE_SECONDS
    flush_seconds: float = 10.0  # how long an end waits for its events to be delivered


@dataclass(frozen=True, slots=True)
class ExitLimits:
    """When the daemon exits without being asked."""

    run_id: str | None = None  # this run and no other
    max_runs: int | None = None
    exit_when_idle_seconds: float | None = None


@dataclass(slots=True)
class ShutdownRequest:
    """Set when a signal arrives; read by the loop and by the attempt in progress."""

    requested: threading.Event = field(default_factory=threading.Event)
    forced: threading.Event = field(default_factory=threading.Event)
    reason: str = "the worker was asked to stop"

    def request(self, reason: str) -> None:
        if self.requested.is_set():
            self.forced.set()
        self.reason = reason
        self.requested.set()


@dataclass(frozen=True, slots=True)
class WorkerStore:
    """What the daemon uses of the database."""

    queue: RunQueue
    rescue: Rescue
    registry: WorkerRegistry
    watch: Callable[[Callable[[], None]], QueueWatcher | None]  # calls back when the queue changes
    ideation: IdeationSweep | None = None  # of a worker that serves ideation


@dataclass(frozen=True, slots=True)
class WorkerOutbox:
    """Where events go."""

    shipper: Shipper
    pod_emitter: EventEmitter
    run_emitter: Callable[[str, int], RunEmitter]  # for one attempt of one run


class Daemon:
    def __init__(
        self,
        identity: WorkerIdentity,
        store: WorkerStore,
        outbox: WorkerOutbox,
        environment: AttemptEnvironment,
        *,
        checks: list[Check],
        machine: Machine,
        clock: Clock,
        intervals: WorkerIntervals,
        timeouts: StopTimeouts,
        limits: ExitLimits,
        shutdown: ShutdownRequest,
        rng: random.Random,
    ) -> None:
        self._identity, self._store, self._outbox = identity, store, outbox
        self._environment, self._checks, self._machine = environment, checks, machine
        self._clock, self._intervals, self._timeouts = clock, intervals, timeouts
        self._limits, self._shutdown, self._rng = limits, shutdown, rng
        self._wakeup = threading.Event()
        self._watcher = store.watch(self._on_queue_change)
        self._supervisor: Supervisor | None = None
        self._busy_emitter: EventEmitter | None = None
        self._state = WorkerState.IDLE
        self._reason: str | None = None
        self._run_id: str | None = None
        self._cleaning = SupervisedThread("cleaning", every(CLEAN_SECONDS, self._clean_work_folders))
        self._threads = [
            SupervisedThread("presence", every(REGISTER_SECONDS, self._report_state)),
            self._cleaning,
        ]
        self._next_sweep = 0.0
        self._failures = 0

    def run(self) -> int:
        """Blocks until the worker's end; returns the process's exit code."""
        try:
            if not self.startup():
                return EXIT_TERMINATED if self._shutdown.requested.is_set() else EXIT_TEMPORARY
            return self.main_loop()
        finally:
            self.shutdown()

    def report(self, entry: RunLog) -> None:
        """Record an uncaught error with the run it may have affected, else with the pod."""
        (self._busy_emitter or self._outbox.pod_emitter).emit(entry)

    # ── startup ─────────────────────────────────────────────────────────────────────────────────────────

    def startup(self) -> bool:
        """Preflight until it passes.

        False: stopped, or refused where waiting is not wanted.
        """
        self._outbox.shipper.start()
        reported: list[str] = []
        pause, longest = PREFLIGHT_RETRY_SECONDS
        while problems := run_checks(self._checks):
            messages = [f"{problem.check}: {problem.message}" for problem in problems]
            if messages != reported:
                self._report_unhealthy(problems)
                reported = messages
            if self._limits.exit_when_idle_seconds is not None or self._limits.run_id:
                return False
            if self._shutdown.requested.wait(pause * self._rng.uniform(0.8, 1.0)):
                return False
            pause = min(pause * 2, longest)
        self._state, self._reason = WorkerState.IDLE, None
        for thread in self._threads:
            thread.start()
        if self._watcher:
            self._watcher.start()
        who = self._identity
        log.info("worker %s ready: mode %s, queues %s", who.worker_id, who.mode, ", ".join(who.queues))
        return True

    def _report_unhealthy(self, problems: list[PreflightFailure]) -> None:
        for problem in problems:
            log.error("this pod cannot work: %s: %s", problem.check, problem.message)
            if problem.shortage:
                self._outbox.pod_emitter.emit(problem.shortage)
        self._state = WorkerState.UNHEALTHY
        self._reason = "; ".join(problem.message for problem in problems)
        self._try_report_state()

    # ── main loop ───────────────────────────────────────────────────────────────────────────────────────

    def main_loop(self) -> int:
        done, idle_since = 0, self._clock.monotonic()
        while not self._shutdown.requested.is_set():
            self._wakeup.clear()  # before the query: a run queued during it wakes us again
            claim = self._claim()
            if claim:
                self._execute(claim)
                done += 1
                idle_since = self._clock.monotonic()
                if self._limits.run_id or done == self._limits.max_runs:
                    break
                continue
            if self._limits.run_id and (fault := self._fault_of_run(self._limits.run_id)):
                log.error("%s", fault)
                return EXIT_NOT_FOUND
            idle_limit = self._limits.exit_when_idle_seconds
            idle = self._clock.monotonic() - idle_since
            if idle_limit is not None and idle >= idle_limit:
                break
            self._sleep(None if idle_limit is None else idle_limit - idle)
        if self._shutdown.requested.is_set():
            return EXIT_TERMINATED
        return EXIT_FAILED if self._failures else EXIT_OK

    def _claim(self) -> Claim | None:
        try:
            self._sweep()
            if self._store.ideation:
                self._store.ideation.run_if_due(self._clock.monotonic(), self._intervals.poll_seconds)
            return self._store.queue.claim(self._identity.claiming_worker(self._offer()), self._limits.run_id)
        except PyMongoError as error:
            log.warning("nothing can be claimed, trying again: %s", describe_error(error))
        except Exception:
            log.exception("nothing can be claimed, trying again")
        self._shutdown.requested.wait(self._rng.uniform(1, 3))
        return None

    def _fault_of_run(self, run_id: str) -> str | None:
        """Why this worker will never claim the run that it was started for, or None."""
        try:
            run = self._store.queue.get(run_id)
        except PyMongoError:
            return None
        if run is None:
            return f"there is no run {run_id}; `pod-worker runs list` shows the ids"
        if run.status in TERMINAL:
            return f"run {run_id} is {run.status}; `pod-worker runs reset {run_id}` queues it again"
        if run.queue not in self._identity.queues:
            return (
                f"run {run_id} is in queue {run.queue}, which this worker does not serve; add --queue {run.queue}"
            )
        return None

    def _sweep(self) -> None:
        """Any worker may rescue a dead one's run; the control plane does too, more often."""
        if self._clock.monotonic() < self._next_sweep:
            return
        self._next_sweep = self._clock.monotonic() + self._intervals.rescue_seconds * self._rng.uniform(0.9, 1.1)
        for each in self._store.rescue.sweep():
            log.warning("rescued run %s of dead worker %s: %s", each.run.id, each.worker_id, each.run.status)

    def _sleep(self, at_most: float | None) -> None:
        # Jitter, so that a fleet started together does not poll together; never above the promised interval.
        seconds = self._intervals.poll_seconds * self._rng.uniform(0.8, 1.0)
        self._wakeup.wait(seconds if at_most is None else min(seconds, max(at_most, 0.0)))

    def _on_queue_change(self) -> None:
        self._wakeup.set()
        if supervisor := self._supervisor:
            supervisor.renew_now()

    def request_shutdown(self) -> None:
        """After `ShutdownRequest.request`: end whatever the loop waits for."""
        self._wakeup.set()
        if supervisor := self._supervisor:
            supervisor.drain(self._shutdown.reason, force=self._shutdown.forced.is_set())

    # ── one run ─────────────────────────────────────────────────────────────────────────────────────────

    def _execute(self, claim: Claim) -> None:
        """One attempt.

        No error of it ends the worker: the lease ends, and the run is rescued.
        """
        try:
            self._execute_attempt(claim)
        except Exception:
            log.exception("run %s: the attempt ended with an error of the worker", claim.run.id)
            self._failures += 1
            self._shutdown.requested.wait(ERROR_PAUSE_SECONDS)
        self._state, self._run_id = WorkerState.IDLE, None
        self._try_report_state()

    def _execute_attempt(self, claim: Claim) -> None:
        run = claim.run
        log.info("run %s: claimed (%s, attempt %d)", run.id, run.pipeline, run.attempt)
        self._state = WorkerState.BUSY
        self._run_id = run.id
        self._try_report_state()
        emitter = self._busy_emitter = self._outbox.run_emitter(run.id, run.attempt)
        user = self._environment.child_user
        if user:
            emitter.hand_over(user.uid, user.gid)
        heartbeat = heartbeat_thread(emitter, self._machine, self._intervals.heartbeat_seconds)
        supervisor = self._supervise(claim, emitter)
        self._threads.append(heartbeat)
        heartbeat.start()
        try:
            result = supervisor.supervise()
        finally:
            heartbeat.stop()
            self._threads.remove(heartbeat)
            self._supervisor = self._busy_emitter = None
            emitter.close()
            if user:  # the next run works under the same user and must not change what this one emitted
                emitter.hand_over(os.geteuid(), os.getegid())
        self._finish_attempt(claim, result)

    def _supervise(self, claim: Claim, emitter: EventEmitter) -> Supervisor:
        self._supervisor = Supervisor(
            self._store.queue,
            claim,
            emitter,
            self._identity,
            self._environment,
            clock=self._clock,
            renew_seconds=self._intervals.renew_seconds,
            timeouts=self._timeouts,
        )
        if self._shutdown.requested.is_set():  # the signal came between the claim and here
            self.request_shutdown()
        return self._supervisor

    def _finish_attempt(self, claim: Claim, result: AttemptResult) -> None:
        run_id, outcome = claim.run.id, result.outcome
        log.info("run %s: %s%s", run_id, type(outcome).__name__.lower(), end_detail(outcome, result.settlement))
        if isinstance(outcome, Failed):
            self._failures += 1
        ended = result.settlement and result.settlement.status is not RunStatus.QUEUED
        if isinstance(outcome, Succeeded) or (ended and not isinstance(outcome, Failed)):
            self._environment.work_folders.remove(run_id)
        else:
            self._cleaning.wake()  # one more folder stays: the bounds hold after every run
        self._outbox.shipper.flush(self._intervals.flush_seconds)

    # ── presence ────────────────────────────────────────────────────────────────────────────────────────

    def thread_problems(self) -> list[str]:
        """What is wrong with the worker's long-lived threads."""
        found = [self._outbox.shipper.problem(), *(thread.problem() for thread in self._threads)]
        return [problem for problem in found if problem]

    def _report_state(self) -> None:
        state, reason = self._state, self._reason
        if problems := self.thread_problems():
            state, reason = WorkerState.UNHEALTHY, "; ".join(problems)
        if self._shutdown.requested.is_set():
            state = WorkerState.DRAINING
        self._register(state, self._run_id, reason)

    def _register(self, state: WorkerState, run_id: str | None = None, reason: str | None = None) -> None:
        worker = self._identity.registered(self._offer())
        self._store.registry.report_state(worker, state, run_id, reason)

    def _offer(self) -> WorkerOffer:
        """Measured each time: runs, caches and other programs use up the disk."""
        return self._machine.offer(self._identity.region)

    def _try_report_state(self) -> None:
        try:
            self._report_state()
        except Exception as error:  # the register is for people; the presence thread tries again
            log.debug("the state could not be reported: %s", error)

    def _clean_work_folders(self) -> None:
        for removed in self._environment.work_folders.clean(self._clock.now().timestamp()):
            log.info("removed the unused work folder %s", removed.name)

    # ── shutdown ────────────────────────────────────────────────────────────────────────────────────────

    def shutdown(self) -> None:
        if self._watcher:
            self._watcher.stop()
        for thread in self._threads:  # before the last report, which must stay the last
            thread.stop(timeout=1.0)
        is_delivered = self._outbox.shipper.flush(self._intervals.flush_seconds)
        self._outbox.shipper.stop()
        if not is_delivered:
            log.warning(
                "some events are not delivered yet; they stay in the spool for the next worker on this pod"
            )
        self._state = WorkerState.STOPPED
        try:
            self._register(WorkerState.STOPPED)
        except Exception as error:
            log.debug("the state could not be reported: %s", error)
        log.info("worker %s stopped", self._identity.worker_id)
