"""The name of a program's failure: exit code, signal, or error of its start."""

from __future__ import annotations

import errno
import signal
from pathlib import Path

from pod_worker.command.execution.process import CommandEnd
from pod_worker.core.failure import FailureCode, ProgramError
from pod_worker.core.signal_name import signal_name

NOT_EXECUTABLE, NOT_FOUND, SIGNAL_BASE = 126, 127, 128  # exit codes of a shell (POSIX, XCU 2.8.2)
CRASHES = frozenset({
    signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT, signal.SIGSYS, signal.SIGTRAP,
    signal.SIGKILL,
})  # fmt: skip


def failure_of(end: CommandEnd, what: str = "the command") -> ProgramError:
    """The error to raise for an end that is no success."""
    if end.signal is not None:
        return _signal_failure(end, SIGNAL_BASE + end.signal, f"{what} died of {signal_name(end.signal)}")
    code = end.code or 0
    inner = code - SIGNAL_BASE
    if inner in CRASHES:
        name = signal_name(inner)
        return _signal_failure(end, code, f"{what} ended with exit code {code}: a program in it died of {name}")
    meaning = f": {_MEANINGS[code]}" if code in _MEANINGS else ""
    return ProgramError(FailureCode.USER_ERROR, f"{what} ended with exit code {code}{meaning}", code)


def _signal_failure(end: CommandEnd, code: int, text: str) -> ProgramError:
    number = code - SIGNAL_BASE
    if number == signal.SIGKILL and end.is_oom_killed:
        return ProgramError(
            FailureCode.HOST_OOM,
            f"{text}: the kernel killed it because the machine ran out of memory (OOM killer)",
            code,
        )
    if number == signal.SIGKILL:
        text += "; the worker did not send it, and the kernel counts no kill for memory"
    return ProgramError(FailureCode.CRASHED_SIGNAL, text, code)


_MEANINGS = {
    NOT_FOUND: "a program was not found. The end of the output names it; install it in `setup`, or correct the "
    "name",
    NOT_EXECUTABLE: "a file cannot be executed. The end of the output names it; run `chmod +x FILE` before the "
    "submit, or name its interpreter (bash FILE, python FILE)",
}


def start_failure(error: OSError, program: str, work: Path) -> ProgramError:
    """The error to raise when the program could not be started."""
    reason = _start_reason(error, work / program) or error.strerror or str(error)
    code = NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
    return ProgramError(FailureCode.USER_ERROR, f"the command {program[:200]!r} cannot be started: {reason}", code)


def _start_reason(error: OSError, file: Path) -> str | None:
    match error:
        case FileNotFoundError() if file.exists():
            return "its first line names an interpreter that this machine lacks; correct that line"
        case FileNotFoundError():
            return "it was not found; install it in `setup`, or put its file into the workdir and write ./NAME"
        case PermissionError() if file.is_dir():
            return "it is a folder; name a program"
        case PermissionError():
            return "it is not executable; run `chmod +x FILE` before the submit, or name its interpreter"
        case OSError(errno=errno.ENOEXEC):
            return "it has no line such as #!/bin/sh; add one, or name its interpreter (bash FILE)"
        case OSError(errno=errno.E2BIG):
            return "its arguments and environment variables are too long; put long values into files"
        case _:
            return None
