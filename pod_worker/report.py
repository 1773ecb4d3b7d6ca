"""Report metrics, progress and log lines from a program that pod_worker executes.

Standard library only, and one file: the worker puts it on the path of every Python that a job starts. Outside a
run each function does nothing; the first call prints one warning. One line is one write to the file
$POD_WORKER_EVENTS, so threads and processes may report at the same time.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

_encode = json.JSONEncoder(separators=(",", ":"), default=float).encode
_opening = threading.Lock()
_fd = -1
_has_warned = False


def metric(name: str, value: Any, step: int | None = None, **more: Any) -> None:
    """Record one value of a series; `more` may hold `epoch` and `unit`."""
    line = {"metric": name, "value": value}
    if step is not None:
        line["step"] = step
    if more:
        line.update(more)
    _write(line)


def progress(fraction: float) -> None:
    """Record how much is done, 0 to 1."""
    _write({"progress": fraction})


def log(message: str, level: str = "info") -> None:
    """Record a line of the run's log."""
    _write({"log": message, "level": level})


def checkpoint() -> None:
    """Ask for a snapshot of $CHECKPOINT_DIR now, and go on.

    Call it after a checkpoint was written: the worker reads the folder in a thread of its own.
    """
    _write({"checkpoint": True})


def should_stop() -> bool:
    """Whether the run was asked to stop; save a checkpoint and end then."""
    path = os.environ.get("POD_WORKER_STOP_FILE")
    return path is not None and os.path.exists(path)


def _write(line: dict[str, Any]) -> None:
    """A report never ends the program: an error costs the line."""
    try:
        if _fd < 0 and not _open():
            return
        data = (_encode(line) + "\n").encode()
        if (count := os.write(_fd, data)) < len(data):
            _complete(data[count:])
    except Exception as error:  # also of the value: a tensor of two elements raises RuntimeError
        _warn(f"a report was not written: {error}")


def _complete(rest: bytes) -> None:
    """Write the rest of a line; where that fails, end it for the sake of the next."""
    try:
        while rest:
            rest = rest[os.write(_fd, rest) :]
    except OSError:
        os.write(_fd, b"\n")
        raise


def _open() -> bool:
    global _fd
    path = os.environ.get("POD_WORKER_EVENTS")
    if not path:
        _warn("POD_WORKER_EVENTS is not set: reports are dropped outside a run")
        return False
    with _opening:  # a second thread must not open a second descriptor
        if _fd < 0:
            _fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    return True


def _warn(message: str) -> None:
    global _has_warned
    if not _has_warned:
        _has_warned = True
        try:
            print(f"pod_worker.report: {message}", file=sys.stderr)
        except (OSError, ValueError):  # closed
            pass
