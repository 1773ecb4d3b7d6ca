"""Signals handled in a thread, where locks and logs are safe to use.

A Python signal handler runs between two instructions of the main thread and may deadlock on any lock that thread
holds; here the handler does nothing and the signal's number arrives over a pipe (signal.set_wakeup_fd).
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

DEFAULT_ACTIONS = (signal.SIG_DFL, signal.default_int_handler)


def listen(on_signal: Callable[[signal.Signals], None], *numbers: signal.Signals) -> None:
    """From now on each of `numbers` calls `on_signal` in a thread.

    Call once, from the main thread.

    A signal without its default action is left alone: one that was ignored (nohup) stays ignored.
    """
    received, sent = os.pipe()
    os.set_blocking(sent, False)
    signal.set_wakeup_fd(sent, warn_on_full_buffer=False)
    handled = [number for number in numbers if signal.getsignal(number) in DEFAULT_ACTIONS]
    for number in handled:
        signal.signal(number, _ignore)

    def read() -> None:
        while data := os.read(received, 64):
            for number in data:
                if number in handled:
                    on_signal(signal.Signals(number))

    threading.Thread(target=read, name="signals", daemon=True).start()


def _ignore(*_: object) -> None:
    pass
