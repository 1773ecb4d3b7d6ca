"""Exit codes of the contract (section 7), and which error has which.

Errors are recognised by name so that nothing is imported only to be compared with.
"""

from __future__ import annotations

from enum import IntEnum

import click


class ExitCode(IntEnum):
    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    AUTH = 4
    NO_CAPACITY = 5
    BUDGET = 6
    TEMPORARY = 75


class CommandError(click.ClickException):
    """An expected end of a command: what happened, and what to do."""

    def __init__(self, message: str, code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.exit_code = int(code)  # type: ignore[misc]

    def show(self, file: object = None) -> None:
        click.echo(f"error: {self.message}", err=True)


_BY_NAME: dict[str, ExitCode] = {
    "ConfigurationError": ExitCode.USAGE,
    "MongoUrlError": ExitCode.USAGE,
    "StoreUnreachableError": ExitCode.TEMPORARY,
    "ServerSelectionTimeoutError": ExitCode.TEMPORARY,
    "AutoReconnect": ExitCode.TEMPORARY,
    "NetworkTimeout": ExitCode.TEMPORARY,
    "OperationFailure": ExitCode.FAILED,
    "LocalStackError": ExitCode.FAILED,
    "PermissionError": ExitCode.FAILED,
}


NO_HOME = "Could not determine home directory."  # the RuntimeError of Path.expanduser


def exit_code_for(error: Exception) -> tuple[ExitCode, str]:
    """The code and the one line for an error that reached the top."""
    text = " ".join(str(error).split()) or type(error).__name__
    for kind in type(error).__mro__:
        if kind.__name__ in _BY_NAME:
            return _BY_NAME[kind.__name__], text
    if type(error).__name__ == "RunError":
        code = str(getattr(error, "code", ""))
        return (ExitCode.USAGE if code == "INVALID_INPUT" else ExitCode.FAILED), text
    if text == NO_HOME:
        return ExitCode.USAGE, (
            "A path begins with ~ and this user has no home folder: HOME is not set and the user has no passwd "
            "entry. Fix: set HOME to a folder that this user may write to."
        )
    return ExitCode.FAILED, f"{type(error).__name__}: {text} (run again with --debug for the traceback)"
