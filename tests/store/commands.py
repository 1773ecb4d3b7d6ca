"""What a client asked the server: the commands, in order, to count them or to have them explained."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pymongo import MongoClient
from pymongo.database import Database
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent
from pymongo.write_concern import WriteConcern

from pod_worker.store.mongo import database_name

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
    client: MongoClient[dict[str, Any]]
    with MongoClient(url, event_listeners=[listener], tz_aware=True) as client:
        yield client.get_database(database_name(url), write_concern=WriteConcern("majority"))
