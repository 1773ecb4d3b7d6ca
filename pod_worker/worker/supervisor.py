"""The supervisor of one attempt: child up, lease kept, orders passed on, end judged, run settled.

One inbox, one loop: threads only post into it. The steps of an end are always the same (ask, SIGTERM, SIGKILL),
and whoever asked decides the outcome: Lost before Canceled before what the child said before Released before
what its death says.
"""

from __future__ import annotations

import logging
import queue as queues
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pymongo
from pymongo.errors import PyMongoError

from pod_worker.core.clock import Clock
from pod_worker.core.failure import Failure, FailureCode, truncate
from pod_worker.core.outcome import Canceled, Failed, Lost, Outcome, Released, Succeeded
from pod_worker.core.payload import (
    RunCanceled,
    RunCompleted,
    RunFailed,
    RunLost,
    RunPreempted,
    RunStarted,
    RunStatusChanged,
)
from pod_worker.core.run import Checkpoint, RunStatus
from pod_worker.core.stage import EventEmitter
from pod_worker.store.queue.run_queue import Claim, RunQueue
from pod_worker.store.queue.settlement import Settlement
from pod_worker.worker import protocol
from pod_worker.worker.guarded_child import GuardedChild, GuardReport, child_command
from pod_worker.worker.oom_kills import OomKillCounter
from pod_worker.worker.output_capture import OutputCapture
from pod_worker.worker.renewal import Renewer

log = logging.getLogger(__name__)
TICK_SECONDS = 0.25
SETTLE_RETRY_SECONDS = 1.0
FINAL_OUTPUT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class StopTimeouts:
    """Seconds between the steps of an end."""

    cancel_seconds: float = 5.0  # from asking to SIGTERM
    drain_seconds: float = 30.0  # the same, when the worker is leaving: time to write a checkpoint
    kill_seconds: float = 5.0  # from SIGTERM to SIGKILL


@dataclass(frozen=True, slots=True)
class AttemptEnvironment:
    """Where and as whom an attempt runs."""

    pod_id: str
    worker_id: str
    spool_dir: Path
    spool_max_bytes: int
    work_dir: Path
    control_plane_url: str
    control_plane_token: str | None
    gpu: str | None = None
    region: str | None = None
    image: str | None = None


@dataclass(frozen=True, slots=True)
class AttemptResult:
    """How the attempt ended and what the queue made of it (None: it was not ours any more)."""

    outcome: Outcome
    settlement: Settlement | None


@dataclass(frozen=True, slots=True)
class _GuardExited:
    report: GuardReport


@dataclass(frozen=True, slots=True)
class _EndRequest:
    reason: str  # cancel | drain | lost | force
    detail: str = ""


class Supervisor:
    def __init__(
        self,
        queue: RunQueue,
        claim: Claim,
        emitter: EventEmitter,
        place: AttemptEnvironment,
        *,
        env: Mapping[str, str],
        clock: Clock,
        renew_seconds: float,
        patience: StopTimeouts,
    ) -> None:
        self._queue = queue
        self._run = claim.run
        self._fence = claim.lease.fence
        self._emitter = emitter
        self._place = place
        self._env = env
        self._clock = clock
        self._patience = patience
        self._began = clock.monotonic()
        self._inbox: queues.Queue[protocol.Message | _GuardExited | _EndRequest] = queues.Queue()
        self._renewer = Renewer(
            queue,
            claim.lease,
            clock,
            every_seconds=renew_seconds,
            on_trust=lambda seconds: self._child.set_lease_deadline(seconds),
            on_cancel=lambda: self._inbox.put(_EndRequest("cancel")),
            on_lost=lambda why: self._inbox.put(_EndRequest("lost", why)),
        )
        self._end_request: _EndRequest | None = None
        self._reported_outcome: Outcome | None = None
        self._deadline: float | None = None  # monotonic time of the next step of the end
        self._terminated = False
        self._memory_kills = OomKillCounter()

    # ── from outside, any thread ────────────────────────────────────────────────────────────────────────

    def renew_now(self) -> None:
        """The run's document has changed: look now."""
        self._renewer.kick()

    def drain(self, why: str, *, force: bool = False) -> None:
        """The worker is leaving. `force`: now, without waiting for a checkpoint."""
        self._inbox.put(_EndRequest("force" if force else "drain", why))

    # ── the attempt ─────────────────────────────────────────────────────────────────────────────────────

    def supervise(self) -> AttemptResult:
        self._emitter.emit(
            RunStarted(
                pod_id=self._place.pod_id,
                worker_id=self._place.worker_id,
                gpu=self._place.gpu,
                region=self._place.region,
                image=self._place.image,
            )
        )
        self._start_child()
        report = self._run_until_exit()
        self._drain_child_output()
        outcome = self._decide_outcome(report)
        settlement = self._settle(outcome)
        self._renewer.stop()
        verdict = AttemptResult(outcome if settlement or isinstance(outcome, Lost) else Lost("fenced"), settlement)
        self._report(verdict)
        return verdict

    def _start_child(self) -> None:
        place = self._place
        spec = protocol.AttemptSpec.of(
            self._run,
            self._fence,
            pod_id=place.pod_id,
            worker_id=place.worker_id,
            spool_dir=str(place.spool_dir),
            spool_max_bytes=place.spool_max_bytes,
            work_dir=str(place.work_dir),
            control_plane_url=place.control_plane_url,
            control_plane_token=place.control_plane_token,
        )
        command = child_command(f"{self._fence.run_id}/{self._fence.attempt}", self._env)
        trust = self._renewer.lease.trusted_until - self._clock.monotonic()
        self._child = GuardedChild(command, trust, spec)
        self._output = OutputCapture(
            self._child.output, place.work_dir / "output.log", self._emitter.emit, self._clock
        )
        self._reader = self._thread("output", self._output.run)
        self._listener = self._thread("messages", self._listen)
        self._thread("guard", lambda: self._inbox.put(_GuardExited(self._child.wait())))
        self._renewer.start()

    def _thread(self, name: str, work: Callable[[], object]) -> threading.Thread:
        thread = threading.Thread(target=work, name=name, daemon=True)
        thread.start()
        return thread

    def _listen(self) -> None:
        for message in self._child.messages(on_noise=log.warning):
            self._inbox.put(message)

    def _run_until_exit(self) -> GuardReport:
        while True:
            try:
                item = self._inbox.get(timeout=TICK_SECONDS if self._deadline else None)
            except queues.Empty:
                self._escalate_if_due()
                continue
            if isinstance(item, _GuardExited):
                return item.report
            self._handle(item)
            self._escalate_if_due()

    def _drain_child_output(self) -> None:
        # Bounded: with the guard killed, a process that hid from the sweep may hold the child's pipes open.
        for thread in (self._listener, self._reader):
            thread.join(FINAL_OUTPUT_SECONDS)
        if not self._reader.is_alive():
            self._child.output.close()
        self._drain_inbox()

    def _drain_inbox(self) -> None:
        """What the child said just before its end may have been read just after it."""
        while True:
            try:
                item = self._inbox.get_nowait()
            except queues.Empty:
                return
            if not isinstance(item, _GuardExited):
                self._handle(item)

    def _handle(self, item: protocol.Message | _GuardExited | _EndRequest) -> None:
        match item:
            case protocol.ChildReady():
                self._write(lambda: self._queue.start(self._fence))
            case protocol.CheckpointSaved(stage=stage, done=done, state=state):
                made = Checkpoint(stage, done, state, self._fence.attempt)
                self._write(lambda: self._queue.checkpoint(self._fence, made))
            case protocol.OutcomeReported():
                self._reported_outcome = item.outcome()
            case _EndRequest():
                self._request_end(item)

    def _write(self, write: Callable[[], bool]) -> None:
        """A fenced write, tried until it has an answer or the lease can no longer be trusted."""
        while not (self._end_request and self._end_request.reason == "lost"):
            try:
                with pymongo.timeout(5.0):
                    if not write():
                        self._request_end(_EndRequest("lost", "the run was taken away"))
                    return
            except PyMongoError as error:
                log.warning("MongoDB did not take a write (%s); trying again", type(error).__name__)
            if not self._renewer.lease.is_trusted(self._clock.monotonic()):
                self._request_end(
                    _EndRequest("lost", "the lease could not be renewed in time (MongoDB did not answer)")
                )
                return
            threading.Event().wait(SETTLE_RETRY_SECONDS)

    # ── the steps of an end ─────────────────────────────────────────────────────────────────────────────

    def _request_end(self, wish: _EndRequest) -> None:
        """A stronger wish replaces a weaker one; the same wish again changes nothing."""
        rank = {"drain": 1, "force": 2, "cancel": 3, "lost": 4}
        if self._end_request and rank[wish.reason] <= rank[self._end_request.reason]:
            return
        log.info("run %s: %s %s", self._run.id, wish.reason, wish.detail)
        self._end_request = wish
        now = self._clock.monotonic()
        if wish.reason in ("lost", "force"):
            self._child.kill()
            self._deadline = None
            return
        self._child.ask_to_stop(wish.reason)
        patience = self._patience
        wait = patience.cancel_seconds if wish.reason == "cancel" else patience.drain_seconds
        self._deadline = now + wait

    def _escalate_if_due(self) -> None:
        if self._deadline is None or self._clock.monotonic() < self._deadline:
            return
        if self._terminated:
            self._child.kill()
            self._deadline = None
            return
        self._terminated = True
        self._child.terminate()
        self._deadline = self._clock.monotonic() + self._patience.kill_seconds

    # ── the end ─────────────────────────────────────────────────────────────────────────────────────────

    def _decide_outcome(self, report: GuardReport) -> Outcome:
        if report.lease_expired and self._reported_outcome is None:
            return Lost("the guard ended the run because the lease could no longer be trusted")
        if self._end_request and self._end_request.reason == "lost":
            return Lost(self._end_request.detail)
        if isinstance(self._reported_outcome, Succeeded):
            return self._reported_outcome
        if isinstance(self._reported_outcome, Canceled) or (
            self._end_request and self._end_request.reason == "cancel"
        ):
            return Canceled(reason="canceled on request")
        if self._end_request:  # whatever a run says while it is being driven out is no failure of its own
            return Released(self._end_request.detail or "the worker is stopping")
        if self._reported_outcome is not None:
            return self._reported_outcome
        return Failed(self._crash_failure(report))

    def _crash_failure(self, report: GuardReport) -> Failure:
        tail = "\n".join(self._output.tail)
        if report.signal is None:
            message = f"the run's process ended with exit code {report.code} and no word"
            return Failure(FailureCode.INTERNAL, message, traceback=tail or None)
        name = signal.Signals(report.signal).name
        if report.signal == signal.SIGKILL and self._memory_kills.has_increased():
            message = "the kernel killed the run because the machine ran out of memory (OOM killer)"
            return Failure(FailureCode.HOST_OOM, message, traceback=tail or None)
        return Failure(FailureCode.CRASHED_SIGNAL, f"the run's process died of {name}", traceback=tail or None)

    def _settle(self, outcome: Outcome) -> Settlement | None:
        """The one write that ends the attempt, tried for as long as the run can still be ours.

        Work of many hours must not be thrown away because MongoDB was away for a minute at its end: the GPU is
        free by now, so waiting costs nothing, and the fence keeps a late write harmless.
        """
        if isinstance(outcome, Lost):
            return None
        end = self._clock.monotonic() + max(10 * self._renewer.lease.seconds, 60)
        while True:
            try:
                with pymongo.timeout(10.0):
                    return self._queue.settle(self._fence, outcome)
            except PyMongoError as error:
                log.warning("MongoDB did not take the run's end (%s); trying again", type(error).__name__)
                if self._clock.monotonic() > end:
                    return None
            threading.Event().wait(SETTLE_RETRY_SECONDS)

    def _report(self, verdict: AttemptResult) -> None:
        emit = self._emitter.emit
        settled = verdict.settlement
        match verdict.outcome:
            case Succeeded():
                emit(RunCompleted(total_duration_s=round(self._clock.monotonic() - self._began, 3)))
            case Failed(failure):
                retry = settled is not None and settled.status is RunStatus.QUEUED
                code = settled.code.value if settled and settled.code and not retry else failure.code.value
                emit(
                    RunFailed(
                        code=code,
                        message=truncate(failure.message, 2000),
                        stage=failure.stage,
                        traceback=failure.traceback,
                        retryable=retry,
                    )
                )
            case Canceled(_, reason):
                emit(RunCanceled(reason=reason))
            case Released(reason):
                emit(RunPreempted(reason=reason))
            case Lost(reason):
                emit(RunLost(reason=reason))
        if settled and settled.status is RunStatus.QUEUED:
            wait = settled.retry_in_seconds
            why = f"tried again in {wait:.0f} s" if wait else "waiting for a worker"
            emit(RunStatusChanged(from_="RUNNING", to="QUEUED", reason=why))
