"""Puts one commit of a repository into the working directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pod_worker.command.execution.process import CommandProcess
from pod_worker.core.failure import FailureCode, ProgramError, RunError
from pod_worker.core.stop_signal import TimedStopSignal

# Never asks for a password: there is no terminal.
_QUIET = {"GIT_TERMINAL_PROMPT": "0", "GIT_SSH_COMMAND": "ssh -o BatchMode=yes", "GIT_ASKPASS": "true"}


def check_out(url: str, commit: str, target: Path, env: Mapping[str, str], stop: TimedStopSignal) -> None:
    """The files of the commit, with submodules left out.

    Raises RunError(ENVIRONMENT) without git, NETWORK when the repository or the commit cannot be fetched.
    """
    _git(["init", "--quiet"], target, env, stop)
    # One commit where the server allows that, else the whole history.
    if not _succeeds(["fetch", "--quiet", "--depth=1", "--", url, commit], target, env, stop):
        _git(["fetch", "--quiet", "--tags", "--", url, "+refs/heads/*:refs/remotes/origin/*"], target, env, stop)
    _git(["-c", "advice.detachedHead=false", "checkout", "--quiet", "--detach", commit], target, env, stop)


def _git(words: list[str], folder: Path, env: Mapping[str, str], stop: TimedStopSignal) -> None:
    if not _succeeds(words, folder, env, stop):
        raise ProgramError(
            FailureCode.NETWORK,
            "the workdir could not be fetched with git; the end of the output has the cause. The pod must reach "
            "the repository, and the commit must be on one of its branches",
        )


def _succeeds(words: list[str], folder: Path, env: Mapping[str, str], stop: TimedStopSignal) -> bool:
    stop.check()
    try:
        process = CommandProcess(["git", *words], folder, {**env, **_QUIET})
    except FileNotFoundError:
        raise RunError(
            FailureCode.ENVIRONMENT, "git is not installed on this pod, and the workdir is a repository"
        ) from None
    end = process.wait(stop, lambda: None)
    if end.was_stopped:
        stop.check()
    return end.is_ok
