"""Which evidence decides how an attempt is judged, and which events report it."""

from __future__ import annotations

import signal

import pytest

from pod_worker.core.failure import Failure, FailureCode
from pod_worker.core.outcome import Canceled, Failed, Lost, Outcome, Released, Succeeded
from pod_worker.core.payload import RunFailed, RunStatusChanged
from pod_worker.core.run import RunStatus
from pod_worker.store.queue.settlement import Settlement
from pod_worker.worker.attempt.ending import (
    CrashEvidence,
    EndReason,
    EndRequest,
    crash_failure,
    decide_outcome,
    final_events,
)
from pod_worker.worker.isolation.guarded_child import GuardReport

REFUSED = Failure(FailureCode.INTERNAL, "MongoDB refuses the checkpoint")
REPORTED = Failed(Failure(FailureCode.USER_ERROR, "x"))
LOST, CANCEL = EndRequest(EndReason.LOST, "taken away"), EndRequest(EndReason.CANCEL)
DRAIN, ERROR = EndRequest(EndReason.DRAIN, "SIGTERM"), EndRequest(EndReason.ERROR, "", REFUSED)
NOTHING_KNOWN = CrashEvidence([], is_oom_killed=False)


@pytest.mark.parametrize(
    ("request_", "reported", "outcome"),
    [
        (LOST, Succeeded(), Lost("taken away")),
        (ERROR, Succeeded(), Failed(REFUSED)),
        (CANCEL, Succeeded(), Succeeded()),
        (CANCEL, REPORTED, Canceled(reason="canceled on request")),
        (None, Canceled(), Canceled(reason="canceled on request")),
        (DRAIN, REPORTED, Released("SIGTERM")),
        (DRAIN, None, Released("SIGTERM")),
        (None, REPORTED, REPORTED),
    ],
)
def test_the_strongest_evidence_decides(
    request_: EndRequest | None, reported: Outcome | None, outcome: Outcome
) -> None:
    assert decide_outcome(GuardReport(code=1), request_, reported, NOTHING_KNOWN) == outcome


OOM_TAIL = ["step 7", "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."]


@pytest.mark.parametrize(
    ("code", "traceback", "tail", "found"),
    [
        ("USER_ERROR", None, OOM_TAIL, "CUDA_OOM"),
        (
            "USER_ERROR",
            None,
            ["jaxlib.xla_extension.XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory"],
            "CUDA_OOM",
        ),
        ("USER_ERROR", None, ["ValueError: x"], "USER_ERROR"),
        ("HOST_OOM", None, OOM_TAIL, "HOST_OOM"),
        ("USER_ERROR", "Traceback of a stage", OOM_TAIL, "USER_ERROR"),
    ],
)
def test_the_output_of_a_users_program_is_its_traceback_and_names_a_cuda_oom(
    code: str, traceback: str | None, tail: list[str], found: str
) -> None:
    reported = Failed(Failure(FailureCode(code), "exit code 1", "command", traceback))
    outcome = decide_outcome(GuardReport(code=1), None, reported, CrashEvidence(tail, is_oom_killed=False))
    assert isinstance(outcome, Failed)
    assert outcome.failure.code is FailureCode(found)
    assert outcome.failure.traceback == (traceback or "\n".join(tail))


def test_a_lease_that_the_guard_ended_is_lost_unless_the_child_had_reported() -> None:
    report = GuardReport(signal=9, lease_expired=True)
    assert isinstance(decide_outcome(report, None, None, NOTHING_KNOWN), Lost)
    assert decide_outcome(report, None, Succeeded(), NOTHING_KNOWN) == Succeeded()


@pytest.mark.parametrize("number", [*range(1, 65)])
def test_death_by_any_signal_has_a_name(number: int) -> None:
    failure = crash_failure(GuardReport(signal=number), NOTHING_KNOWN)
    assert failure.code is FailureCode.CRASHED_SIGNAL
    assert "SIG" in failure.message.upper()


def test_a_sigkill_with_a_new_oom_kill_is_a_lack_of_memory() -> None:
    evidence = CrashEvidence(["last line"], is_oom_killed=True)
    failure = crash_failure(GuardReport(signal=signal.SIGKILL), evidence)
    assert (failure.code, failure.traceback) == (FailureCode.HOST_OOM, "last line")
    assert crash_failure(GuardReport(signal=signal.SIGSEGV), evidence).code is FailureCode.CRASHED_SIGNAL


def test_a_failure_that_is_retried_says_so_and_a_final_one_has_the_queues_code() -> None:
    retried = final_events(REPORTED, Settlement(RunStatus.QUEUED, 30.0, FailureCode.USER_ERROR), 1.0)
    assert retried == [
        RunFailed(code="USER_ERROR", message="x", retryable=True),
        RunStatusChanged(from_="RUNNING", to="QUEUED", reason="retried in 30 s"),
    ]
    [final] = final_events(REPORTED, Settlement(RunStatus.FAILED, None, FailureCode.POISON), 1.0)
    assert final == RunFailed(code="POISON", message="x", retryable=False)
