"""Follows a log across broken connections without loss or repetition.

It resumes at the last timestamp. The cursor is a timestamp, and several lines may share one, so a resumed stream
repeats those; the repeats are counted off. This module opens no connection itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from pod_worker.pods.catalogue import LogLine
from pod_worker.pods.errors import UnreachableError

MAX_FAILURES = 6
"""Consecutive broken connections without a new line before the error is raised."""


def follow_log(
    open_stream: Callable[[str], Iterator[LogLine]],
    *,
    should_reopen: Callable[[], bool],
    pause: Callable[[int], None],
    since: str = "",
) -> Iterator[LogLine]:
    """Lines from `open_stream(cursor)`, reopened after a break.

    After an end it is reopened while `should_reopen()`. `pause(n)` is called after n consecutive streams without
    a new line.
    """
    cursor, seen_at_cursor, empty_streams = since, Counter[LogLine](), 0
    while True:
        repeats = seen_at_cursor.copy()
        try:
            for entry in open_stream(cursor):
                if entry.at == cursor and repeats[entry] > 0:
                    repeats[entry] -= 1
                    continue
                if entry.at != cursor:
                    cursor, seen_at_cursor, repeats = entry.at, Counter(), Counter()
                seen_at_cursor[entry] += 1
                empty_streams = 0
                yield entry
        except UnreachableError:
            empty_streams += 1
            if empty_streams >= MAX_FAILURES:
                raise
        else:
            if not should_reopen():
                return
            empty_streams = min(empty_streams + 1, MAX_FAILURES - 1)
        pause(empty_streams)
