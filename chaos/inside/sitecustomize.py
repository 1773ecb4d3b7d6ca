"""A wall clock that can be wrong, for the Python processes of a chaos run; on their PYTHONPATH, nowhere else.

Shifts `time.time` and the product's `SystemClock.now` by the seconds in the file that CHAOS_CLOCK_FILE names. It
leaves CLOCK_MONOTONIC and CLOCK_BOOTTIME alone, as a wrong NTP step would. libfaketime cannot be used for this:
told to leave those two alone, 0.9.10 makes every clock_nanosleep (Python's `time.sleep`) fail with EINVAL.
"""

from __future__ import annotations

import importlib
import os
import time
from datetime import UTC, datetime, timedelta

_READ_AGAIN_SECONDS = 0.1
_true_time, _true_time_ns = time.time, time.time_ns
_cached = (-1.0, 0)


def offset_seconds() -> int:
    global _cached
    read_at, offset = _cached
    now = time.monotonic()
    if now > read_at + _READ_AGAIN_SECONDS:
        try:
            with open(os.environ["CHAOS_CLOCK_FILE"]) as file:
                offset = int(file.read())
        except (OSError, ValueError):
            pass  # the pod's folder is gone: the drill is over
        _cached = (now, offset)
    return offset


def install() -> None:
    from pod_worker.core import clock

    time.time = lambda: _true_time() + offset_seconds()
    time.time_ns = lambda: _true_time_ns() + offset_seconds() * 1_000_000_000
    clock.SystemClock.now = lambda self: datetime.now(UTC) + timedelta(seconds=offset_seconds())  # type: ignore[method-assign]


if "CHAOS_CLOCK_FILE" in os.environ:
    install()
if "CHAOS_SABOTAGE" in os.environ:
    importlib.import_module("mutations").SABOTAGES[os.environ["CHAOS_SABOTAGE"]]()
