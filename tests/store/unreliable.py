"""A database handle that loses requests or replies on command, beneath the queue and above the driver.

`Loss.REQUEST`: the server never saw the call. `Loss.REPLY`: it executed the call, and the reply was lost. Both look the
same from above: `AutoReconnect`. The driver's own retry is not in the way here; `test_linearizability` has that too.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

from pymongo.database import Database
from pymongo.errors import AutoReconnect

Db = Database[dict[str, Any]]
WRITES = frozenset({"find_one_and_update", "update_one"})


class Loss(Enum):
    NOTHING = "nothing"
    REQUEST = "request"
    REPLY = "reply"


class Unreliable:
    """Stands in for a `Database`: `fate` is asked before each write of a collection, with the call's name."""

    def __init__(
        self, database: Db, fate: Callable[[str], Loss], before: Callable[[], None] = lambda: None
    ) -> None:
        self._database = database
        self._fate = fate
        self._before = before

    def get_collection(self, name: str, **options: Any) -> _Collection:
        return _Collection(self._database.get_collection(name, **options), self._fate, self._before)


class _Collection:
    def __init__(self, collection: Any, fate: Callable[[str], Loss], before: Callable[[], None]) -> None:
        self._collection = collection
        self._fate = fate
        self._before = before

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._collection, name)
        return self._guarded(name, found) if name in WRITES else self._timed(found)

    def _timed(self, call: Any) -> Any:
        def timed(*words: Any, **named: Any) -> Any:
            self._before()
            return call(*words, **named)

        return timed if callable(call) else call

    def _guarded(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*words: Any, **named: Any) -> Any:
            self._before()
            fate = self._fate(name)
            if fate is Loss.REQUEST:
                raise AutoReconnect("connection closed before the request")
            result = call(*words, **named)
            if fate is Loss.REPLY:
                raise AutoReconnect("connection closed before the reply")
            return result

        return guarded
