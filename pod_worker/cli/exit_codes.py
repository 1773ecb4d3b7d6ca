"""Exit codes of the contract (section 7), and which error has which.

Errors are listed by their full name, so that nothing is imported only to be compared with. A test resolves each.
"""

from __future__ import annotations

import errno
import sys
from enum import IntEnum
from typing import IO, Any

import click

from pod_worker.core.terminal_text import one_line, terminal_text


class ExitCode(IntEnum):
    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    AUTH = 4
    NO_CAPACITY = 5
    BUDGET = 6
    TEMPORARY = 75
    INTERRUPTED = 130


class CommandError(click.ClickException):
    """An expected end of a command: the cause, then the fix."""

    def __init__(self, message: str, code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.exit_code = int(code)  # type: ignore[misc]

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"error: {terminal_text(self.message)}", file or sys.stderr)


# The most specific class of an error that is listed here decides.
EXIT_CODES: dict[str, ExitCode] = {
    "builtins.PermissionError": ExitCode.FAILED,
    "pod_worker.config.ConfigurationError": ExitCode.USAGE,
    "pod_worker.local.errors.LocalStackError": ExitCode.FAILED,
    "pod_worker.store.ideation.operations.HypothesisNotFoundError": ExitCode.NOT_FOUND,
    "pod_worker.store.mongo.IndexConflictError": ExitCode.FAILED,
    "pod_worker.store.mongo.MongoUrlError": ExitCode.USAGE,
    "pod_worker.store.mongo.StoreUnreachableError": ExitCode.TEMPORARY,
    "pymongo.errors.ConnectionFailure": ExitCode.TEMPORARY,
    "pymongo.errors.OperationFailure": ExitCode.FAILED,
    "pod_worker.submission.errors.JobInputError": ExitCode.USAGE,
    "pod_worker.submission.errors.NoSuchRunError": ExitCode.NOT_FOUND,
    "pod_worker.submission.errors.SubmissionAccessError": ExitCode.AUTH,
    "pod_worker.submission.errors.SubmissionError": ExitCode.FAILED,
    "pod_worker.submission.errors.SubmissionOutageError": ExitCode.TEMPORARY,
    "pod_worker.pods.errors.ForbiddenError": ExitCode.AUTH,
    "pod_worker.pods.errors.InsufficientBalanceError": ExitCode.BUDGET,
    "pod_worker.pods.errors.InvalidRequestError": ExitCode.USAGE,
    "pod_worker.pods.errors.NoCapacityError": ExitCode.NO_CAPACITY,
    "pod_worker.pods.errors.PodNotFoundError": ExitCode.NOT_FOUND,
    "pod_worker.pods.errors.ProviderError": ExitCode.TEMPORARY,
    "pod_worker.pods.errors.RequestRejectedError": ExitCode.FAILED,
    "pod_worker.pods.errors.UnauthorizedError": ExitCode.AUTH,
    "pod_worker.pods.launch_requests.NotAvailableError": ExitCode.NOT_FOUND,
    "pod_worker.pods.runpod_settings.RunpodConfigurationError": ExitCode.USAGE,
    "pod_worker.pods.ssh.host_keys.HostKeyChangedError": ExitCode.AUTH,
    "pod_worker.pods.ssh.login.SshError": ExitCode.FAILED,
}
_RUN_ERROR = "pod_worker.core.failure.RunError"
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)
NOT_LISTENING = (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES)
NO_HOME = "Could not determine home directory."  # the RuntimeError of Path.expanduser


def exit_code_for(error: Exception) -> tuple[ExitCode, str]:
    """The code and the one line for an error that reached the top."""
    text = one_line(str(error)) or type(error).__name__
    names = [f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__]
    if _RUN_ERROR in names:
        is_input = str(getattr(error, "code", "")) == "INVALID_INPUT"
        return (ExitCode.USAGE if is_input else ExitCode.FAILED), text
    if isinstance(error, OSError) and error.errno in NOT_WRITABLE and error.filename:
        return ExitCode.FAILED, (
            f"{one_line(str(error.filename))}: {error.strerror}. Give this user access to it, or set HOME, "
            "POD_WORKER_DATA, POD_WORKER_SPOOL_DIR or POD_WORKER_WORK_DIR to a folder that it may write to."
        )
    if isinstance(error, OSError) and error.errno in NOT_LISTENING and not error.filename:
        return ExitCode.FAILED, one_line(str(error.strerror))  # a sentence of ours, with the fix
    listed = next((name for name in names if name in EXIT_CODES), None)
    if listed is None and text == NO_HOME:
        return ExitCode.USAGE, (
            "a path begins with ~ and this user has no home folder: HOME is not set and the user has no passwd "
            "entry. Set HOME to a folder that this user may write to."
        )
    if listed is None:
        return ExitCode.FAILED, f"{type(error).__name__}: {text} (run again with --debug for the traceback)"
    if listed == "pymongo.errors.ConnectionFailure":
        from pod_worker.store.mongo import brief_text

        text = f"MongoDB does not answer: {one_line(brief_text(error))}. Check that it is up, then run this again."
    return EXIT_CODES[listed], text
