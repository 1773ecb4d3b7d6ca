"""How an attempt is judged at its end: pure decisions from the evidence.

The result is an outcome and the last events.

Precedence: a lost lease, an error of the supervision, a success that the child reported, a cancel, a drain, any
other report of the child, and last what the death of the process says.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, replace
from enum import IntEnum

from pod_worker.core.credentials.secret import Redactor
from pod_worker.core.failure import Failure, FailureCode, truncate
from pod_worker.core.outcome import Canceled, Failed, Lost, Outcome, Released, Succeeded
from pod_worker.core.output_evidence import code_in_output
from pod_worker.core.payload import (
    Payload,
    RunCanceled,
    RunCompleted,
    RunFailed,
    RunLost,
    RunPreempted,
    RunStatusChanged,
)
from pod_worker.core.run import RunStatus
from pod_worker.core.signal_name import signal_name
from pod_worker.store.queue.settlement import Settlement
from pod_worker.worker.isolation.guarded_child import GuardReport

EVENT_MESSAGE_LIMIT = 2000


class EndReason(IntEnum):
    """Why an attempt is being ended; a larger value replaces a smaller one."""

    DRAIN = 1  # the worker stops: time for a checkpoint
    TIME_LIMIT = 2  # max_duration: time for a checkpoint
    FORCE = 3  # the worker stops now
    CANCEL = 4
    ERROR = 5  # the attempt cannot be supervised any longer
    LOST = 6

    @property
    def is_orderly(self) -> bool:
        """Whether the run is asked first and its last writes are waited for."""
        return self in (EndReason.DRAIN, EndReason.TIME_LIMIT)


@dataclass(frozen=True, slots=True)
class EndRequest:
    reason: EndReason
    detail: str = ""
    failure: Failure | None = None  # with ERROR and TIME_LIMIT


@dataclass(frozen=True, slots=True)
class CrashEvidence:
    """What is known about the death of a process that reported no outcome."""

    output_tail: list[str]
    is_oom_killed: bool


def decide_outcome(
    report: GuardReport, request: EndRequest | None, reported: Outcome | None, evidence: CrashEvidence
) -> Outcome:
    reason = request.reason if request else None
    if report.lease_expired and reported is None:
        return Lost("the guard killed the run because its lease could no longer be trusted")
    if request and reason is EndReason.LOST:
        return Lost(request.detail)
    if request and request.failure and reason is not EndReason.TIME_LIMIT:
        return Failed(request.failure)
    if isinstance(reported, Succeeded):
        return reported
    if request and request.failure:
        return Failed(request.failure)
    if isinstance(reported, Canceled) or reason is EndReason.CANCEL:
        return Canceled(reason="canceled on request")
    if request:  # what a run reports while it is being drained is no failure of its own
        return Released(request.detail or "the worker is stopping")
    if isinstance(reported, Failed):
        return Failed(with_output(reported.failure, evidence.output_tail))
    return reported if reported is not None else Failed(crash_failure(report, evidence))


def with_output(failure: Failure, tail: list[str]) -> Failure:
    """The failure with the last lines of output, unless it has a traceback.

    One without is of a user's program (core.failure.ProgramError).
    """
    if failure.traceback is not None or not tail:
        return failure
    code = code_in_output(tail) if failure.code is FailureCode.USER_ERROR else None
    return replace(failure, code=code or failure.code, traceback="\n".join(tail))


def crash_failure(report: GuardReport, evidence: CrashEvidence) -> Failure:
    tail = "\n".join(evidence.output_tail) or None
    if report.signal is None:
        message = f"the run's process exited with code {report.code} without reporting an outcome"
        return Failure(FailureCode.INTERNAL, message, traceback=tail)
    if report.signal == signal.SIGKILL and evidence.is_oom_killed:
        message = "the kernel killed the run because the machine ran out of memory (OOM killer)"
        return Failure(FailureCode.HOST_OOM, message, traceback=tail)
    name = signal_name(report.signal)
    return Failure(FailureCode.CRASHED_SIGNAL, f"the run's process died of {name}", traceback=tail)


def redacted_outcome(outcome: Outcome, redactor: Redactor) -> Outcome:
    """The outcome without known secrets.

    It goes into the run's document and its events.
    """
    match outcome:
        case Failed(failure):
            trace = None if failure.traceback is None else redactor(failure.traceback)
            return Failed(replace(failure, message=redactor(failure.message), traceback=trace))
        case Succeeded(summary, awaits_review):
            return Succeeded(redactor.redact_json(summary), awaits_review)
        case Released(reason):
            return Released(redactor(reason))
        case Canceled(by, reason) if reason:
            return Canceled(by, redactor(reason))
        case _:
            return outcome


def final_events(outcome: Outcome, settlement: Settlement | None, duration_s: float) -> list[Payload]:
    """The events that report the end of an attempt.

    `settlement` None: the queue did not accept it.
    """
    events = [_ended_event(outcome, settlement, duration_s)]
    if settlement and settlement.status is RunStatus.QUEUED:
        wait = settlement.retry_in_seconds
        reason = f"retried in {wait:.0f} s" if wait else "waiting for a worker"
        events.append(RunStatusChanged(from_="RUNNING", to="QUEUED", reason=reason))
    return events


def _ended_event(outcome: Outcome, settlement: Settlement | None, duration_s: float) -> Payload:
    match outcome:
        case Succeeded():
            return RunCompleted(total_duration_s=round(duration_s, 3))
        case Failed(failure):
            return _failed_event(failure, settlement)
        case Canceled(_, reason):
            return RunCanceled(reason=reason)
        case Released(reason):
            return RunPreempted(reason=reason)
        case Lost(reason):
            return RunLost(reason=reason)


def _failed_event(failure: Failure, settlement: Settlement | None) -> RunFailed:
    is_retried = settlement is not None and settlement.status is RunStatus.QUEUED
    code = settlement.code if settlement and settlement.code and not is_retried else failure.code
    return RunFailed(
        code=code.value,
        message=truncate(failure.message, EVENT_MESSAGE_LIMIT),
        stage=failure.stage,
        traceback=failure.traceback,
        retryable=is_retried,
    )


def end_detail(outcome: Outcome, settlement: Settlement | None) -> str:
    """The end of an attempt as the rest of a line of the worker's log."""
    match outcome:
        case Failed(failure):
            text = f": {failure.code}: {failure.message.splitlines()[0] if failure.message else ''}"
        case Lost(reason):
            text = f": {reason}"
        case _:
            text = ""
    if settlement and settlement.status is RunStatus.QUEUED:
        wait = settlement.retry_in_seconds
        text += f" (queued again{f', next try in {wait:.0f} s' if wait else ''})"
    return text
