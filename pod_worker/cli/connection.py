"""Commands that follow a run for hours wait for MongoDB to come back."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from pymongo.errors import ConnectionFailure

from pod_worker.cli.output import say

RETRY_SECONDS = 2.0
T = TypeVar("T")


def until_reconnected(read: Callable[[], T]) -> T:
    """The result of `read`, repeated while MongoDB does not answer.

    Says so once, and when it answers again.
    """
    is_down = False
    while True:
        try:
            result = read()
        except ConnectionFailure:
            if not is_down:
                say(
                    "MongoDB does not answer; trying again until it does (Ctrl-C ends this command, not the run) …"
                )
            is_down = True
            time.sleep(RETRY_SECONDS)
            continue
        if is_down:
            say("MongoDB answers again")
        return result
