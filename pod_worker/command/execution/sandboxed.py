"""A command inside the sandbox: no network, its own files and user alone.

It may write its workdir, outputs, checkpoints and the events file. `setup` and the workdir are prepared before,
outside. `core.execution` has the port, `sandbox/` the implementation.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pod_worker.command.execution.folders import JobFolders
from pod_worker.command.execution.process import CommandEnd, reserved_seconds
from pod_worker.core.execution import ExecutionEnd, ExecutionLimits, ExecutionRequest, ProgramRunner
from pod_worker.core.stop_signal import TimedStopSignal

STDOUT = 1  # of this process, which the worker reads
NO_LIMIT = 1 << 62  # bytes
YEARS_SECONDS = 10 * 365 * 86_400.0  # the supervisor enforces `max_duration`
PROCESSES = 4096
KEPT_BYTES = 16 * 1024
_PASSED = ("PATH", "CUDA_VISIBLE_DEVICES")  # HOME and the caches of the worker are out of reach


def inherited_by_sandbox(env: Mapping[str, str], gpus: int) -> dict[str, str]:
    """What a job in the sandbox receives of this process's environment."""
    return {name: env[name] for name in _PASSED if name in env and (gpus or name == "PATH")}


def prepare_folders(folders: JobFolders, remove: Callable[[Path], None]) -> None:
    """Delete what only the sandbox's user may delete; restoring needs nothing of it.

    `remove` acts as that user.
    """
    for path in (folders.work, folders.checkpoints):
        if path.is_dir() and not path.is_symlink():
            remove(path)


def run_sandboxed(
    runner: ProgramRunner,
    argv: Sequence[str],
    folders: JobFolders,
    env: Mapping[str, str],
    programs: Sequence[Path],
    gpus: int,
    stop: TimedStopSignal,
) -> CommandEnd:
    """Blocks until nothing of the program is left.

    Standard output and error are this process's output. `programs`: folders of programs beside those of the
    system. Raises OSError when the program cannot be started,
    and RunError(ENVIRONMENT) when the sandbox cannot work.
    """
    folders.events.touch()
    request = ExecutionRequest(
        folder=folders.work,
        argv=(_program(argv[0], env, folders.work), *argv[1:]),
        environment=dict(env),
        readable=(folders.signals, *(path for path in (folders.modules,) if path.exists())),
        writable=(folders.outputs, folders.checkpoints, folders.events),
        programs=tuple(path for path in programs if path.exists()),
        limits=ExecutionLimits(
            wall_seconds=YEARS_SECONDS,
            disk_bytes=NO_LIMIT,
            file_bytes=NO_LIMIT,
            processes=PROCESSES,
            output_bytes=KEPT_BYTES,
        ),
        gpus=tuple(range(gpus)),
        unix_sockets=True,  # data loaders with workers
        loopback=gpus > 1,  # torchrun
    )
    terminate = _Termination(stop, folders.stop_file)
    result = runner.run_program(request, STDOUT, terminate, _Deadline(stop))
    is_memory = result.end is ExecutionEnd.MEMORY
    code = result.exit_code if result.end is ExecutionEnd.EXITED else None
    number = result.signal if result.signal is not None else 9 if code is None else None
    return CommandEnd(code, number, terminate.was_requested, is_memory)


def _program(name: str, env: Mapping[str, str], work: Path) -> str:
    """The path of the program. Raises OSError as the start of a process does."""
    path = str(work / name) if "/" in name else shutil.which(name, path=env.get("PATH"))
    if path is None or not os.path.exists(path):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    if os.path.isdir(path) or not os.access(path, os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
    return path


class _Termination:
    """Set when the command should end; the stop file exists from then on."""

    def __init__(self, stop: TimedStopSignal, stop_file: Path) -> None:
        self._stop, self._stop_file = stop, stop_file
        self.was_requested = False

    def check(self) -> None:
        return

    def is_set(self) -> bool:
        if self._stop.is_set() and not self.was_requested:
            self.was_requested = True
            self._stop_file.touch()
        return self.was_requested


class _Deadline:
    """Set when the time for an orderly end is over."""

    def __init__(self, stop: TimedStopSignal) -> None:
        self._stop = stop
        self._ends_at: float | None = None

    def check(self) -> None:
        return

    def is_set(self) -> bool:
        if not self._stop.is_set():
            return False
        if self._ends_at is None:
            left = self._stop.seconds_left() or 0.0
            self._ends_at = time.monotonic() + left - reserved_seconds(left)
        return time.monotonic() >= self._ends_at
