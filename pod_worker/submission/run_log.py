"""The log of a run, page by page, until the run has ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

from pod_worker.store.events.reader import LOG_TYPE, EventFilter, EventReader
from pod_worker.store.events.tail import EventTail
from pod_worker.store.mongo import Document, Mongo
from pod_worker.store.views.read_models import ReadModels
from pod_worker.submission.run_end import ENDED_STATUSES

POLL_SECONDS = 0.5
FOLLOWED_LINES = 1000  # before a reader that follows from the start begins
T = TypeVar("T")


class Retry(Protocol):
    """Calls a function, again while MongoDB does not answer."""

    def __call__(self, read: Callable[[], T]) -> T: ...


def log_tail(database: Mongo, run_id: str, last: int = FOLLOWED_LINES) -> EventTail:
    return EventTail(EventReader(database), run_id, EventFilter((LOG_TYPE,)), last)


def follow_pages(models: ReadModels, lines: EventTail, run_id: str, retry: Retry) -> Iterator[list[Document]]:
    """Pages of new lines until the run has ended and no more come."""
    while True:
        # Asked before the lines are read, so that those written before the end are still shown.
        has_ended = retry(lambda: models.status(run_id)) in (*ENDED_STATUSES, None)
        found = retry(lines.read)
        yield found
        if has_ended and not found:
            return
        if not found:
            time.sleep(POLL_SECONDS)
