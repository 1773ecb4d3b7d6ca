"""What a client asked the server: the commands, in order, to count them or to have them explained."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pymongo.database import Database
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from pod_worker.store.mongo import connect

QUERIES = {"find", "aggregate", "count", "update", "delete", "findAndModify", "distinct"}


class Commands(CommandListener):
    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    def started(self, event: CommandStartedEvent) -> None:
        if event.command_name in QUERIES | {"insert"}:
            with self._lock:
                self.seen.append(dict(event.command))

    def succeeded(self, event: CommandSucceededEvent) -> None: ...

    def failed(self, event: CommandFailedEvent) -> None: ...

    def clear(self) -> None:
        with self._lock:
            self.seen.clear()

    def names(self) -> list[str]:
        return [next(iter(each)) for each in self.seen]


@contextmanager
def watched(url: str, listener: CommandListener) -> Iterator[Database[dict[str, Any]]]:
    """The database of a URL, through a client of its own that tells the listener."""
    database = connect(url, listeners=[listener])
    with database.client:
        yield database
