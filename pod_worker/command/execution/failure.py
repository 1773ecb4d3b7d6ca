"""The name of a command's failure, from its exit code or signal."""

from __future__ import annotations

import signal

from pod_worker.command.execution.process import CommandEnd
from pod_worker.core.failure import FailureCode, RunError


def failure_of(end: CommandEnd, what: str = "the command") -> RunError:
    """The error to raise for an end that is no success."""
    if end.signal is not None:
        return RunError(FailureCode.CRASHED_SIGNAL, f"{what} died of {signal_name(end.signal)}")
    return RunError(FailureCode.USER_ERROR, f"{what} ended with exit code {end.code}")


def signal_name(number: int) -> str:
    """`SIGSEGV`, or `signal 40` for one without a name (real-time signals)."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
