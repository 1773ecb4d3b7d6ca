"""Signals, taken out of signal handlers: a thread that calls back, where locks and logs are safe to use.

A Python signal handler runs between two instructions of the main thread and may deadlock on any lock that thread
holds; here the handler does nothing and the signal's number arrives over a pipe (signal.set_wakeup_fd).
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable


def listen(on_signal: Callable[[signal.Signals], None], *numbers: signal.Signals) -> None:
    """From now on each of `numbers` calls `on_signal` in a thread. Call once, from the main thread."""
    received, sent = os.pipe()
    os.set_blocking(sent, False)
    signal.set_wakeup_fd(sent, warn_on_full_buffer=False)
    for number in numbers:
        signal.signal(number, _ignore)

    def read() -> None:
        while data := os.read(received, 64):
            for number in data:
                if number in numbers:
                    on_signal(signal.Signals(number))

    threading.Thread(target=read, name="signals", daemon=True).start()


def _ignore(*_: object) -> None:
    pass
