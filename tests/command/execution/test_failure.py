"""Exit codes, signals and errors of a start have a name, a cause and a fix."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from pod_worker.command.execution.failure import failure_of, start_failure
from pod_worker.command.execution.process import CommandEnd, CommandProcess
from pod_worker.core.failure import FailureCode, classify


@pytest.mark.parametrize(
    ("end", "code", "text"),
    [
        (CommandEnd(3), FailureCode.USER_ERROR, "the command ended with exit code 3"),
        (CommandEnd(127), FailureCode.USER_ERROR, "not found"),
        (CommandEnd(126), FailureCode.USER_ERROR, "chmod +x"),
        (CommandEnd(signal=signal.SIGSEGV), FailureCode.CRASHED_SIGNAL, "died of SIGSEGV"),
        (CommandEnd(139), FailureCode.CRASHED_SIGNAL, "exit code 139: a program in it died of SIGSEGV"),
        (CommandEnd(137), FailureCode.CRASHED_SIGNAL, "counts no kill for memory"),
        (CommandEnd(137, is_oom_killed=True), FailureCode.HOST_OOM, "ran out of memory"),
        (CommandEnd(signal=9, is_oom_killed=True), FailureCode.HOST_OOM, "ran out of memory"),
        (CommandEnd(1, is_oom_killed=True), FailureCode.USER_ERROR, "exit code 1"),
        (CommandEnd(200), FailureCode.USER_ERROR, "exit code 200"),
        (CommandEnd(signal=40), FailureCode.CRASHED_SIGNAL, "signal 40"),
    ],
)
def test_an_end_has_a_code_and_a_text(end: CommandEnd, code: FailureCode, text: str) -> None:
    failure = classify(failure_of(end))
    assert failure.code is code
    assert text in failure.message
    assert failure.traceback is None, "the output has the cause; the supervisor adds its end"


@pytest.mark.parametrize(
    ("make", "argv", "text"),
    [
        (None, ["no-such-program"], "it was not found"),
        (None, ["./absent"], "it was not found"),
        (("#!/no/such/interpreter\n", 0o755), ["./script"], "interpreter that this machine lacks"),
        (("echo\n", 0o644), ["./script"], "chmod +x"),
        (("echo\n", 0o755), ["./script"], "#!/bin/sh"),
        (None, ["./"], "it is a folder"),
        (None, ["true", "x" * 3_000_000], "too long"),
    ],
)
def test_a_program_that_cannot_be_started_is_explained(
    tmp_path: Path, make: tuple[str, int] | None, argv: list[str], text: str
) -> None:
    if make:
        (tmp_path / "script").write_text(make[0])
        (tmp_path / "script").chmod(make[1])
    with pytest.raises(OSError) as caught:
        CommandProcess(argv, tmp_path, dict(os.environ))
    error = start_failure(caught.value, argv[0], tmp_path)
    assert error.code is FailureCode.USER_ERROR
    assert text in error.message
