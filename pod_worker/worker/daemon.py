"""The worker daemon: startup, main_loop, shutdown. One run at a time, until somebody says stop.

Signal handlers only set flags. Idle, it costs MongoDB one look per poll and one sweep for dead workers' runs in a
while; a change stream wakes it in between. Busy, everything about the run is the supervisor's.
"""

from __future__ import annotations

import logging
import random
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from pymongo.errors import PyMongoError

from pod_worker.core.clock import Clock
from pod_worker.core.outcome import Failed, Lost, Succeeded
from pod_worker.core.payload import RunLog
from pod_worker.core.run import RunStatus
from pod_worker.core.stage import EventEmitter
from pod_worker.store.queue.change_stream import QueueWatcher
from pod_worker.store.queue.rescue import Rescue
from pod_worker.store.queue.run_queue import Claim, ClaimingWorker, RunQueue
from pod_worker.store.worker_registry import WorkerInfo, WorkerRegistry, WorkerState
from pod_worker.worker.heartbeat import PeriodicThread, run_heartbeat
from pod_worker.worker.machine import Machine
from pod_worker.worker.preflight import Check, PreflightFailure, run_checks
from pod_worker.worker.supervisor import AttemptEnvironment, AttemptResult, StopTimeouts, Supervisor

log = logging.getLogger(__name__)

EXIT_OK, EXIT_FAILED, EXIT_TEMPORARY, EXIT_TERMINATED = 0, 1, 75, 143
PREFLIGHT_RETRY_SECONDS = (2.0, 30.0)  # the first pause, doubled up to the last: a short outage costs little
REGISTER_SECONDS = 60.0
RESCUE_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class WorkerIntervals:
    poll_seconds: float = 10.0
    renew_seconds: float = 15.0
    heartbeat_seconds: float = 15.0
    rescue_seconds: float = RESCUE_SECONDS
    flush_seconds: float = 10.0  # how long an end waits for its events to be delivered


@dataclass(frozen=True, slots=True)
class ExitLimits:
    """When the daemon ends by itself."""

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


class Delivery(Protocol):
    """What the daemon needs of the outbox; `outbox.shipper.Shipper` has it."""

    def start(self) -> None: ...
    def flush(self, timeout: float) -> bool: ...
    def stop(self) -> None: ...


class Daemon:
    def __init__(
        self,
        *,
        queue: RunQueue,
        rescue: Rescue,
        register: WorkerRegistry,
        wakeup: Callable[[Callable[[], None]], QueueWatcher | None],
        claimant: ClaimingWorker,
        card: WorkerInfo,
        place: AttemptEnvironment,
        run_emitter: Callable[[str, int], EventEmitter],
        pod_emitter: EventEmitter,
        delivery: Delivery,
        checks: list[Check],
        machine: Machine,
        env: Mapping[str, str],
        clock: Clock,
        rhythm: WorkerIntervals,
        patience: StopTimeouts,
        limits: ExitLimits,
        stop: ShutdownRequest,
        rng: random.Random,
    ) -> None:
        self._queue, self._rescue, self._register = queue, rescue, register
        self._claimant, self._card, self._place = claimant, card, place
        self._run_emitter, self._pod_emitter = run_emitter, pod_emitter
        self._delivery, self._checks, self._machine = delivery, checks, machine
        self._env, self._clock, self._rhythm = env, clock, rhythm
        self._patience, self._limits, self._stop, self._rng = patience, limits, stop, rng
        self._awake = threading.Event()
        self._wakeup = wakeup(self._wake)
        self._supervisor: Supervisor | None = None
        self._busy_emitter: EventEmitter | None = None
        self._state = WorkerState.IDLE
        self._reason: str | None = None
        self._run_id: str | None = None
        self._presence = PeriodicThread("presence", REGISTER_SECONDS, self._report_state)
        self._next_sweep = 0.0
        self._failures = 0

    def run(self) -> int:
        """Blocks until the worker's end; returns the process's exit code."""
        try:
            if not self.startup():
                return EXIT_TERMINATED if self._stop.requested.is_set() else EXIT_TEMPORARY
            return self.main_loop()
        finally:
            self.shutdown()

    def report(self, entry: RunLog) -> None:
        """An error that nobody caught: told where people look, beside the run it may have hurt."""
        (self._busy_emitter or self._pod_emitter).emit(entry)

    # ── startup ─────────────────────────────────────────────────────────────────────────────────────────

    def startup(self) -> bool:
        """Preflight until it passes. False: stopped, or refused where waiting is not wanted."""
        self._delivery.start()
        said: list[str] = []
        pause, longest = PREFLIGHT_RETRY_SECONDS
        while problems := run_checks(self._checks):
            messages = [f"{problem.check}: {problem.message}" for problem in problems]
            if messages != said:
                self._report_unhealthy(problems)
                said = messages
            if self._limits.exit_when_idle_seconds is not None or self._limits.run_id:
                return False
            if self._stop.requested.wait(pause * self._rng.uniform(0.8, 1.0)):
                return False
            pause = min(pause * 2, longest)
        self._state, self._reason = WorkerState.IDLE, None
        self._presence.start()
        if self._wakeup:
            self._wakeup.start()
        log.info(
            "worker %s ready: mode %s, queues %s",
            self._card.worker_id,
            self._card.mode,
            ", ".join(self._claimant.queues),
        )
        return True

    def _report_unhealthy(self, problems: list[PreflightFailure]) -> None:
        for problem in problems:
            log.error("this pod cannot work: %s: %s", problem.check, problem.message)
            if problem.shortage:
                self._pod_emitter.emit(problem.shortage)
        self._state = WorkerState.UNHEALTHY
        self._reason = "; ".join(problem.message for problem in problems)
        self._try_report_state()

    # ── main loop ───────────────────────────────────────────────────────────────────────────────────────

    def main_loop(self) -> int:
        done, idle_since = 0, self._clock.monotonic()
        while not self._stop.requested.is_set():
            self._awake.clear()  # before the look: a run queued during it wakes us again
            claim = self._claim()
            if claim:
                self._execute(claim)
                done += 1
                idle_since = self._clock.monotonic()
                if self._limits.run_id or done == self._limits.max_runs:
                    break
                continue
            idle_limit = self._limits.exit_when_idle_seconds
            idle = self._clock.monotonic() - idle_since
            if idle_limit is not None and idle >= idle_limit:
                break
            self._sleep(None if idle_limit is None else idle_limit - idle)
        return EXIT_TERMINATED if self._stop.requested.is_set() else EXIT_FAILED if self._failures else EXIT_OK

    def _claim(self) -> Claim | None:
        try:
            self._sweep()
            return self._queue.claim(self._claimant, self._limits.run_id)
        except PyMongoError as error:
            log.warning("MongoDB does not answer (%s); trying again", type(error).__name__)
            self._stop.requested.wait(self._rng.uniform(1, 3))
            return None

    def _sweep(self) -> None:
        """Any worker may rescue a dead one's run; the control plane does too, more often."""
        if self._clock.monotonic() < self._next_sweep:
            return
        self._next_sweep = self._clock.monotonic() + self._rhythm.rescue_seconds * self._rng.uniform(0.9, 1.1)
        for rescued in self._rescue.sweep():
            log.warning(
                "rescued run %s of dead worker %s: %s", rescued.run.id, rescued.worker_id, rescued.run.status
            )

    def _sleep(self, at_most: float | None) -> None:
        # Jitter, so that a fleet started together does not poll together; never above the promised interval.
        seconds = self._rhythm.poll_seconds * self._rng.uniform(0.8, 1.0)
        self._awake.wait(seconds if at_most is None else min(seconds, max(at_most, 0.0)))

    def _wake(self) -> None:
        self._awake.set()
        if supervisor := self._supervisor:
            supervisor.renew_now()

    def request_shutdown(self) -> None:
        """After `ShutdownRequest.request`: let go of whatever the loop waits for."""
        self._awake.set()
        if supervisor := self._supervisor:
            supervisor.drain(self._stop.reason, force=self._stop.forced.is_set())

    # ── one run ─────────────────────────────────────────────────────────────────────────────────────────

    def _execute(self, claim: Claim) -> None:
        run = claim.run
        log.info("run %s: claimed (%s, attempt %d)", run.id, run.pipeline, run.attempt)
        self._state = WorkerState.BUSY
        self._run_id = run.id
        self._try_report_state()
        emitter = self._busy_emitter = self._run_emitter(run.id, run.attempt)
        heartbeat = run_heartbeat(emitter, self._machine, self._rhythm.heartbeat_seconds)
        supervisor = self._supervise(claim, emitter)
        heartbeat.start()
        try:
            verdict = supervisor.supervise()
        finally:
            heartbeat.stop()
            self._supervisor = self._busy_emitter = None
        self._finish_attempt(claim, verdict)

    def _supervise(self, claim: Claim, emitter: EventEmitter) -> Supervisor:
        place = replace(self._place, work_dir=self._place.work_dir / claim.run.id)
        self._supervisor = Supervisor(
            self._queue,
            claim,
            emitter,
            place,
            env=self._env,
            clock=self._clock,
            renew_seconds=self._rhythm.renew_seconds,
            patience=self._patience,
        )
        if self._stop.requested.is_set():  # the signal came between the claim and here
            self.request_shutdown()
        return self._supervisor

    def _finish_attempt(self, claim: Claim, verdict: AttemptResult) -> None:
        run_id, outcome = claim.run.id, verdict.outcome
        word = type(outcome).__name__.lower()
        log.info("run %s: %s%s", run_id, word, _detail(verdict))
        if isinstance(outcome, Failed):
            self._failures += 1
        ended = verdict.settlement and verdict.settlement.status is not RunStatus.QUEUED
        if isinstance(outcome, Succeeded) or (ended and not isinstance(outcome, Failed)):
            shutil.rmtree(self._place.work_dir / run_id, ignore_errors=True)
        self._delivery.flush(self._rhythm.flush_seconds)
        self._state, self._run_id = WorkerState.IDLE, None
        self._try_report_state()

    # ── presence ────────────────────────────────────────────────────────────────────────────────────────

    def _report_state(self) -> None:
        state = WorkerState.DRAINING if self._stop.requested.is_set() else self._state
        self._register.report_state(self._card, state, self._run_id, self._reason)

    def _try_report_state(self) -> None:
        try:
            self._report_state()
        except PyMongoError:
            pass  # a picture is not worth an error

    # ── shutdown ────────────────────────────────────────────────────────────────────────────────────────

    def shutdown(self) -> None:
        if self._wakeup:
            self._wakeup.stop()
        delivered = self._delivery.flush(self._rhythm.flush_seconds)
        self._delivery.stop()
        if not delivered:
            log.warning(
                "some events are not delivered yet; they stay in the spool for the next worker on this pod"
            )
        self._state = WorkerState.STOPPED
        try:
            self._register.report_state(self._card, WorkerState.STOPPED)
        except PyMongoError:
            pass
        log.info("worker %s stopped", self._card.worker_id)


def _detail(verdict: AttemptResult) -> str:
    match verdict.outcome:
        case Failed(failure):
            text = f": {failure.code}: {failure.message.splitlines()[0] if failure.message else ''}"
        case Lost(reason):
            text = f": {reason}"
        case _:
            text = ""
    settled = verdict.settlement
    if settled and settled.status is RunStatus.QUEUED:
        wait = settled.retry_in_seconds
        text += f" (queued again{f', next try in {wait:.0f} s' if wait else ''})"
    return text


def clean_work_dirs(root: Path, older_than_seconds: float, now: float) -> list[Path]:
    """Folders of runs that nobody has touched for long; a failed run's folder is kept until then."""
    if not root.is_dir():
        return []
    stale = [each for each in root.iterdir() if each.is_dir() and now - each.stat().st_mtime > older_than_seconds]
    for each in stale:
        shutil.rmtree(each, ignore_errors=True)
    return stale
