"""The name of a signal's number."""

from __future__ import annotations

import signal


def signal_name(number: int) -> str:
    """`SIGSEGV`, or `signal 40` for one without a name (real-time signals)."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
