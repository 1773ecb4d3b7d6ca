"""The execution of an untrusted program: request, result, and the port.

`sandbox/` has the implementation. `search/`, `paper/` and the stages only know this port.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol, runtime_checkable

from pod_worker.core.stop_signal import StopSignal


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionLimits:
    wall_seconds: float = 3600.0
    cpu_seconds: float | None = None  # None: wall_seconds times the CPUs
    memory_bytes: int | None = None  # of the whole process tree; None: no limit
    disk_bytes: int = 10 * 2**30  # of the folder, together
    file_bytes: int = 4 * 2**30  # of one file
    address_space_bytes: int | None = None  # of one process; not for GPU programs, which reserve much more
    processes: int = 256
    output_bytes: int = 256 * 1024  # kept of standard output and error: the beginning and the end


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionRequest:
    """One run of a program in a folder of its own.

    `argv` starts with the name of a Python file in `folder` (executed as `__main__` by a warm interpreter), or
    with the absolute path of another program.
    """

    folder: Path  # working directory, readable and writable; everything else is not writable
    argv: tuple[str, ...]
    limits: ExecutionLimits = ExecutionLimits()
    environment: dict[str, str] = field(default_factory=dict)
    readable: tuple[Path, ...] = ()  # further files and folders, read only
    writable: tuple[Path, ...] = ()  # further files and folders, as `folder`
    programs: tuple[Path, ...] = ()  # further folders whose files may be executed; read only
    denied: tuple[Path, ...] = ()  # files and folders below readable system paths that stay closed
    seed: int = 0  # random, numpy and torch are seeded with it before the program starts
    gpus: tuple[int, ...] = ()
    hosts: tuple[str, ...] = ()  # names that may be reached; empty: no network
    unix_sockets: bool = False  # between its own processes, for data loaders with workers (docs/sandbox.md)
    loopback: bool = False  # unix_sockets, and TCP for torchrun; it restricts ports, not addresses


class ExecutionEnd(StrEnum):
    EXITED = "exited"  # see exit_code
    SIGNALED = "signaled"  # a signal that we did not send
    TIMED_OUT = "timed_out"
    MEMORY = "memory"  # over its memory limit, or killed by the kernel for memory
    DISK = "disk"
    OUTPUT = "output"
    STOPPED = "stopped"  # the run was canceled or drained


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionResult:
    end: ExecutionEnd
    exit_code: int | None = None
    signal: int | None = None
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_rss_bytes: int = 0
    output: str = ""  # bounded: beginning, a note of what was cut, end
    output_bytes: int = 0  # of everything that was written
    seed_proof: str = ""  # digest of the first random numbers drawn inside the child

    @property
    def is_ok(self) -> bool:
        return self.end is ExecutionEnd.EXITED and self.exit_code == 0


class CodeRunner(Protocol):
    """Runs untrusted programs; safe for several threads, one execution each."""

    @property
    def layers(self) -> tuple[str, ...]:
        """The protections that were proved to work on this machine."""

    def execute(self, request: ExecutionRequest, stop: StopSignal) -> ExecutionResult:
        """Returns when every process of the program is gone.

        Raises RunError(ENVIRONMENT) when the sandbox itself cannot work.
        """

    def remove(self, folder: Path) -> None:
        """Delete a folder that programs wrote to, whatever modes they left."""


@runtime_checkable
class ProgramRunner(CodeRunner, Protocol):
    """Also runs programs that write as long as they like and end in their own time."""

    def run_program(
        self, request: ExecutionRequest, output: int, terminate: StopSignal, kill: StopSignal
    ) -> ExecutionResult:
        """As `execute`; the program's output goes to a descriptor at once.

        Its process group gets SIGTERM when `terminate` is set. It has ended when none of its processes is left, or
        when `kill` is set.
        """
