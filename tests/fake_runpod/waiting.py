"""Waiting on conditions, for tests of real processes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import psutil

TIMEOUT_SECONDS = 20.0


def until(condition: Callable[[], object], what: str) -> None:
    """Poll until `condition` holds. Fails with `what` after a while."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited {TIMEOUT_SECONDS:g} s for {what}"
        threading.Event().wait(0.01)


def processes_with(marker: str) -> list[psutil.Process]:
    """Living processes whose environment holds `marker`."""
    found = []
    for process in psutil.process_iter():
        try:
            if marker in process.environ().values() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found
