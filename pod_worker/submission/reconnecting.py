"""Who follows a run for hours waits for MongoDB to come back."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from pymongo.errors import ConnectionFailure

RETRY_SECONDS = 2.0
T = TypeVar("T")


def until_reconnected(read: Callable[[], T], note: Callable[[str], object] = lambda _text: None) -> T:
    """The result of `read`, repeated while MongoDB does not answer.

    `note` hears of the outage once, and of its end.
    """
    is_down = False
    while True:
        try:
            result = read()
        except ConnectionFailure:
            if not is_down:
                note(
                    "MongoDB does not answer; trying again until it does (Ctrl-C ends this command, not the run) …"
                )
            is_down = True
            time.sleep(RETRY_SECONDS)
            continue
        if is_down:
            note("MongoDB answers again")
        return result
