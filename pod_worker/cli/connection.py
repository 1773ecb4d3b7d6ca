"""Commands that follow a run for hours wait for MongoDB to come back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pod_worker.cli.output import say
from pod_worker.submission import reconnecting

T = TypeVar("T")


def until_reconnected(read: Callable[[], T]) -> T:
    """The result of `read`, repeated while MongoDB does not answer.

    Says so once, and when it answers again.
    """
    return reconnecting.until_reconnected(read, say)
