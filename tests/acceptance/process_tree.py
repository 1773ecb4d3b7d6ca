"""What a process tree shows of itself: nothing where a process has ended, or protects itself from its user."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import psutil

T = TypeVar("T")


def processes_below(pid: int) -> list[psutil.Process]:
    """Every process started by `pid`, and what those have started."""
    return list(psutil.Process(pid).children(recursive=True))


def command_line(process: psutil.Process) -> str:
    return " ".join(_unless_hidden(process.cmdline, []))


def environment(process: psutil.Process) -> dict[str, str]:
    return _unless_hidden(process.environ, {})


def _unless_hidden(read: Callable[[], T], nothing: T) -> T:
    try:
        return read()
    except (psutil.NoSuchProcess, psutil.AccessDenied):  # ZombieProcess too
        return nothing
