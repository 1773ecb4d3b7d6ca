"""Following a log across broken connections: resume at the last timestamp, lose nothing, tell nothing twice.

The cursor is a timestamp, and several lines may share one, so a resumed stream repeats those; the repeats are
counted off. This module opens no connection itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from pod_worker.pods.catalogue import LogLine
from pod_worker.pods.errors import Unreachable

MAX_FAILURES = 6
"""Broken connections in a row, without one new line, before the error is handed on."""


def tailed(
    open_stream: Callable[[str], Iterator[LogLine]],
    *,
    goes_on: Callable[[], bool],
    rest: Callable[[int], None],
    since: str = "",
) -> Iterator[LogLine]:
    """Lines from `open_stream(cursor)`, which is opened again after a break, and after an end while `goes_on()`.

    `rest(n)` pauses after n fruitless streams in a row.
    """
    cursor, told, fruitless = since, Counter[LogLine](), 0
    while True:
        repeats = told.copy()
        try:
            for entry in open_stream(cursor):
                if entry.at == cursor and repeats[entry] > 0:
                    repeats[entry] -= 1
                    continue
                if entry.at != cursor:
                    cursor, told, repeats = entry.at, Counter(), Counter()
                told[entry] += 1
                fruitless = 0
                yield entry
        except Unreachable:
            fruitless += 1
            if fruitless >= MAX_FAILURES:
                raise
        else:
            if not goes_on():
                return
            fruitless = min(fruitless + 1, MAX_FAILURES - 1)
        rest(fruitless)
