"""The supervisor of one attempt: child, lease, writes, end and settlement.

One inbox, one loop that never blocks on MongoDB or on the child: threads only post into the inbox. `end_sequence`
has the steps of an end, `ending` the decision what the end is called.
"""

from __future__ import annotations

import logging
import queue as queues
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias, cast

from pod_worker.core.clock import Clock
from pod_worker.core.failure import Failure, FailureCode, RunError, classify, truncate
from pod_worker.core.outcome import Failed, Lost, Outcome
from pod_worker.core.payload import Payload, RunStarted
from pod_worker.core.stage import EventEmitter
from pod_worker.process.oom_kills import OomKillCounter
from pod_worker.store.errors import describe_error
from pod_worker.store.queue.run_queue import Claim, RunQueue
from pod_worker.store.queue.settlement import Settlement
from pod_worker.worker.attempt.attempt_environment import AttemptEnvironment, needs_sandbox
from pod_worker.worker.attempt.end_sequence import EndSequence, StopTimeouts
from pod_worker.worker.attempt.ending import (
    CrashEvidence,
    EndReason,
    EndRequest,
    decide_outcome,
    final_events,
    redacted_outcome,
)
from pod_worker.worker.attempt.fenced_writer import TRY_SECONDS, FencedWrite, FencedWriter, FencedWriteResult
from pod_worker.worker.attempt.message_listener import MessageListener
from pod_worker.worker.attempt.renewal import Renewer
from pod_worker.worker.capture.output_capture import OutputCapture
from pod_worker.worker.identity import WorkerIdentity
from pod_worker.worker.isolation.attempt_tag import AttemptTag
from pod_worker.worker.isolation.guarded_child import GuardedChild, GuardReport, child_command

log = logging.getLogger(__name__)
TICK_SECONDS = 0.25
FINAL_OUTPUT_SECONDS = 10.0
SETTLE_SECONDS = 60.0  # at least; longer leases give longer


@dataclass(frozen=True, slots=True)
class AttemptResult:
    """How the attempt ended and what the queue made of it.

    None: the attempt was over already.
    """

    outcome: Outcome
    settlement: Settlement | None


@dataclass(frozen=True, slots=True)
class _GuardExited:
    report: GuardReport


@dataclass(frozen=True, slots=True)
class _RenewNow:
    pass


@dataclass(frozen=True, slots=True)
class _OutcomeReported:
    outcome: Outcome


_Item: TypeAlias = _GuardExited | _RenewNow | _OutcomeReported | EndRequest | FencedWriteResult


@dataclass(frozen=True, slots=True)
class _RunningAttempt:
    """The child and what runs around it."""

    child: GuardedChild
    output: OutputCapture
    renewer: Renewer
    end: EndSequence
    listener: threading.Thread
    reader: threading.Thread


class Supervisor:
    def __init__(
        self,
        queue: RunQueue,
        claim: Claim,
        emitter: EventEmitter,
        identity: WorkerIdentity,
        environment: AttemptEnvironment,
        *,
        clock: Clock,
        renew_seconds: float,
        timeouts: StopTimeouts,
    ) -> None:
        self._queue = queue
        self._run = claim.run
        self._lease = claim.lease
        self._fence = claim.lease.fence
        self._emitter = emitter
        self._identity = identity
        self._environment = environment
        self._redactor = environment.redactor
        self._clock = clock
        self._renew_seconds = renew_seconds
        self._timeouts = timeouts
        self._inbox: queues.SimpleQueue[_Item] = queues.SimpleQueue()
        self._writer = FencedWriter(self._inbox.put)
        self._stop_request: EndRequest | None = None  # the last drain or force that was asked for
        self._reported: Outcome | None = None
        self._ends_at: float | None = None  # monotonic time of max_duration
        self._oom_kills = OomKillCounter()

    # ── from outside, any thread ────────────────────────────────────────────────────────────────────────

    def renew_now(self) -> None:
        """The run's document has changed: look now."""
        self._inbox.put(_RenewNow())

    def drain(self, reason: str, *, force: bool = False) -> None:
        """The worker is stopping. `force`: now, without waiting for a checkpoint."""
        self._inbox.put(EndRequest(EndReason.FORCE if force else EndReason.DRAIN, reason))

    # ── the attempt ─────────────────────────────────────────────────────────────────────────────────────

    def supervise(self) -> AttemptResult:
        """Blocks until the attempt is over.

        Every error inside becomes the attempt's failure.
        """
        began = self._clock.monotonic()
        if self._run.max_duration_seconds:
            self._ends_at = began + self._run.max_duration_seconds
        self._emit(self._started_event())
        self._writer.start()
        with ExitStack() as work_folder:
            try:
                folders = self._environment.work_folders
                attempt = self._start(work_folder.enter_context(folders.used(self._run.id)))
            except Exception as error:
                log.exception("run %s: the attempt could not be started", self._run.id)
                result = self._settle(Failed(_start_failure(error)))
            else:
                try:
                    result = self._settle(self._execute(attempt))
                finally:
                    attempt.renewer.stop()
        self._writer.stop()
        for event in final_events(result.outcome, result.settlement, self._clock.monotonic() - began):
            self._emit(event)
        return result

    def _started_event(self) -> RunStarted:
        who = self._identity
        return RunStarted(
            pod_id=who.pod_id, worker_id=who.worker_id, gpu=who.gpu, region=who.region, image=who.image
        )

    def _start(self, work_dir: Path) -> _RunningAttempt:
        secrets = self._environment.job_secrets(self._run, self._fence, self._trusted_seconds() / 3)
        self._redactor = self._environment.redactor.with_more(secrets.values())
        tag = AttemptTag(self._run.id, self._fence.attempt, self._environment.work_folders.root)
        child = GuardedChild(
            child_command(
                tag,
                self._environment.variables,
                self._environment.child_user,
                needs_sandbox=needs_sandbox(self._run),
            ),
            self._trusted_seconds(),
            self._environment.spec(self._run, self._fence, self._identity, work_dir, secrets),
        )
        output = OutputCapture(child.output, work_dir / "output.log", self._emit, self._clock, self._redactor)
        renewer = Renewer(
            self._queue,
            self._lease,
            self._clock,
            renew_seconds=self._renew_seconds,
            on_renewed=child.set_lease_deadline,
            on_cancel=lambda: self._inbox.put(EndRequest(EndReason.CANCEL)),
            on_lost=lambda reason: self._inbox.put(EndRequest(EndReason.LOST, reason)),
        )
        listener = MessageListener(
            child,
            self._queue,
            self._fence,
            self._writer,
            may_retry=lambda: renewer.lease.is_trusted(self._clock.monotonic()),
            on_outcome=lambda outcome: self._inbox.put(_OutcomeReported(outcome)),
            on_invalid=lambda fault: self._inbox.put(
                EndRequest(EndReason.ERROR, fault, Failure(FailureCode.USER_ERROR, fault))
            ),
            redactor=self._redactor,
        )
        self._thread("spec", child.send_spec)
        self._thread("guard", lambda: self._inbox.put(_GuardExited(child.wait())))
        renewer.start()
        return _RunningAttempt(
            child,
            output,
            renewer,
            EndSequence(self._run.id, child, self._timeouts, self._clock),
            listener=self._thread("messages", listener.run),
            reader=self._thread("output", output.run),
        )

    def _trusted_seconds(self) -> float:
        return max(self._lease.trusted_until - self._clock.monotonic(), 0.0)

    def _thread(self, name: str, work: Callable[[], object]) -> threading.Thread:
        """A thread whose error ends the attempt."""

        def run() -> None:
            try:
                work()
            except Exception as error:
                log.exception("run %s: thread %s failed", self._run.id, name)
                self._inbox.put(EndRequest(EndReason.ERROR, f"thread {name} failed", _internal_failure(error)))

        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        return thread

    def _execute(self, attempt: _RunningAttempt) -> Outcome:
        report = self._run_until_exit(attempt)
        # Bounded: with the guard killed, a process that hid from the sweep may hold the child's pipes open.
        for thread in (attempt.listener, attempt.reader):
            thread.join(FINAL_OUTPUT_SECONDS)
        self._finish_writes(attempt)
        evidence = CrashEvidence(attempt.output.tail, self._oom_kills.has_increased())
        return decide_outcome(report, attempt.end.request, self._reported, evidence)

    def _run_until_exit(self, attempt: _RunningAttempt) -> GuardReport:
        while True:
            self._end_if_too_long(attempt)
            is_timed = attempt.end.is_under_way or self._ends_at is not None
            item = self._next_item(TICK_SECONDS if is_timed else None)
            if isinstance(item, _GuardExited):
                return item.report
            self._handle(attempt, item)
            attempt.end.escalate_if_due()

    def _end_if_too_long(self, attempt: _RunningAttempt) -> None:
        if self._ends_at is not None and self._clock.monotonic() >= self._ends_at and not attempt.end.request:
            attempt.end.begin(
                EndRequest(EndReason.TIME_LIMIT, failure=_time_failure(self._run.max_duration_seconds or 0))
            )

    def _next_item(self, seconds: float | None) -> _Item | None:
        try:
            item = self._inbox.get(timeout=seconds)
        except queues.Empty:
            return None
        if isinstance(item, EndRequest) and item.reason in (EndReason.DRAIN, EndReason.FORCE):
            self._stop_request = item
        return item

    def _handle(self, attempt: _RunningAttempt, item: _Item | None) -> None:
        match item:
            case _RenewNow():
                attempt.renewer.renew_now()
            case _OutcomeReported(outcome):
                self._reported = outcome
            case EndRequest():
                attempt.end.begin(item)
            case FencedWriteResult():
                if request := _request_after(item):
                    attempt.end.begin(request)

    def _finish_writes(self, attempt: _RunningAttempt) -> None:
        """Wait for the writes that the child asked for, unless canceled or lost."""

        def handle(item: _Item) -> bool:
            self._handle(attempt, item)
            return is_worth_waiting()

        def is_worth_waiting() -> bool:
            request = attempt.end.request
            return request is None or request.reason.is_orderly

        last = FencedWrite("last write", lambda: True, lambda: False)
        self._writer.submit(last)
        if not is_worth_waiting() or self._wait_for(last.name, self._settle_seconds(), handle) is None:
            self._writer.abandon()

    def _wait_for(self, name: str, seconds: float, handle: Callable[[_Item], bool]) -> FencedWriteResult | None:
        """The result of the write `name`; None after `seconds` or at a stop.

        `handle` is given every other item and returns whether to go on waiting.
        """
        began = self._clock.monotonic()
        while (left := began + min(seconds, self._patience_seconds()) - self._clock.monotonic()) > 0:
            item = self._next_item(min(left, TICK_SECONDS))
            if isinstance(item, FencedWriteResult) and item.name == name:
                return item
            if item is not None and not handle(item):
                return None
        return None

    def _settle_seconds(self) -> float:
        return max(10 * self._lease.seconds, SETTLE_SECONDS)

    def _patience_seconds(self) -> float:
        """How long the worker may wait for MongoDB when the run's processes are gone."""
        if self._stop_request is None:
            return float("inf")
        is_forced = self._stop_request.reason is EndReason.FORCE
        # One try that was in progress may have to end first.
        return TRY_SECONDS + (self._timeouts.kill_seconds if is_forced else self._timeouts.drain_seconds)

    # ── the end ─────────────────────────────────────────────────────────────────────────────────────────

    def _settle(self, outcome: Outcome) -> AttemptResult:
        """The one write that ends the attempt, tried while the run can still be ours.

        Work of many hours must not be lost because MongoDB was away for a minute at its end: the GPU is free by
        now, so waiting costs nothing, and the fence keeps a late write harmless.
        """
        if isinstance(outcome, Lost):
            return AttemptResult(outcome, None)
        outcome = redacted_outcome(outcome, self._redactor)
        result = self._try_to_settle(outcome)
        if result and result.is_permanent:
            log.error("run %s: MongoDB refuses its end: %s", self._run.id, result.error)
            outcome = redacted_outcome(Failed(_refused_failure(result)), self._redactor)
            result = self._try_to_settle(outcome)
        if result is None or result.error:
            return AttemptResult(Lost("MongoDB did not accept the end of the run"), None)
        settlement = cast("Settlement | None", result.value)
        return AttemptResult(outcome if settlement else Lost("fenced"), settlement)

    def _try_to_settle(self, outcome: Outcome) -> FencedWriteResult | None:
        write = FencedWrite("settle", lambda: self._queue.settle(self._fence, outcome), lambda: True)
        self._writer.submit(write)
        return self._wait_for(write.name, self._settle_seconds(), lambda item: True)

    def _emit(self, payload: Payload) -> str:
        """An event that cannot be recorded is logged; it never ends the attempt."""
        try:
            return self._emitter.emit(payload)
        except Exception as error:
            log.error("run %s: the event %s could not be recorded: %s", self._run.id, payload.type, error)
            return ""


def _request_after(result: FencedWriteResult) -> EndRequest | None:
    """What a finished write means for the attempt; None when it succeeded."""
    if result.is_permanent:
        return EndRequest(EndReason.ERROR, f"MongoDB refuses the {result.name}", _refused_failure(result))
    if result.error:
        return EndRequest(EndReason.LOST, "the lease could not be renewed in time (MongoDB did not answer)")
    return None if result.value else EndRequest(EndReason.LOST, "the run was taken away")


def _refused_failure(result: FencedWriteResult) -> Failure:
    assert result.error is not None
    message = f"the {result.name} cannot be stored: {describe_error(result.error)}"
    return Failure(FailureCode.BAD_DOCUMENT, truncate(message, 1000))


def _time_failure(seconds: float) -> Failure:
    return Failure(FailureCode.MAX_DURATION, f"the attempt took longer than its max_duration of {seconds:g} s")


def _internal_failure(error: Exception) -> Failure:
    return replace(classify(error), code=FailureCode.INTERNAL)


def _start_failure(error: Exception) -> Failure:
    failure = classify(error)
    is_named = isinstance(error, RunError) or failure.code is FailureCode.DISK_FULL
    return failure if is_named else replace(failure, code=FailureCode.INTERNAL)
