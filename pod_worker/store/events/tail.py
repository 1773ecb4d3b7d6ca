"""Following a run's events: the last ones first, then new ones, each once.

Batches get their positions before they are stored, so an event can become visible after others with a later
position. Each read therefore begins some seconds before the last one and leaves out what was returned already.
"""

from __future__ import annotations

from pod_worker.store.events.reader import EventFilter, EventReader
from pod_worker.store.mongo import Document

OVERLAP_MICROSECONDS = 3_000_000  # positions are microseconds of arrival
PAGE_EVENTS = 500


class EventTail:
    """Follows one run.

    `last`: how many of the present events the first read returns. Errors of the driver pass through.
    """

    def __init__(self, reader: EventReader, run_id: str, wanted: EventFilter, last: int) -> None:
        self._reader = reader
        self._run_id = run_id
        self._wanted = wanted
        self._last = last
        self._position: int | None = None  # of the newest event that was returned
        self._cursor = 0  # the next read begins after it
        self._returned: dict[str, int] = {}  # id -> position, of those after the cursor

    def read(self) -> list[Document]:
        """New events, oldest first; empty when there are none.

        A read that raised may be repeated.
        """
        if self._position is None:
            return self._read_last()
        while True:
            page = self._reader.read_page(
                self._run_id, self._wanted, PAGE_EVENTS, self._cursor, newest_first=False
            )
            fresh = [event for event in page.items if event["_id"] not in self._returned]
            self._remember(fresh, page.next_cursor)
            if fresh or page.next_cursor is None:
                return fresh

    def _read_last(self) -> list[Document]:
        newest = self._reader.last_position(self._run_id)
        window = self._reader.ids_between(self._run_id, newest - OVERLAP_MICROSECONDS, newest)
        found = self._reader.read_page(self._run_id, self._wanted, self._last, newest + 1).items[::-1]
        self._position, self._returned = newest, window
        self._remember(found, None)
        return found

    def _remember(self, events: list[Document], next_cursor: int | None) -> None:
        assert self._position is not None
        self._returned |= {event["_id"]: event["position"] for event in events}
        self._position = max([self._position, *(event["position"] for event in events)])
        self._cursor = self._position - OVERLAP_MICROSECONDS if next_cursor is None else next_cursor
        start = min(self._cursor, self._position - OVERLAP_MICROSECONDS)
        self._returned = {name: at for name, at in self._returned.items() if at > start}
