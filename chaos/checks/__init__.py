"""The checker: each module asks one group of questions of a `ChaosRecord` and answers with rows of the table."""

from __future__ import annotations

from collections.abc import Iterator

from chaos.checks import artifacts, effects, ends, events, fencing, processes, rescues, views
from chaos.drill import ChaosRecord
from chaos.history import moves
from chaos.report import Row
from pod_worker.local.s3 import S3Access
from pod_worker.store.mongo import Mongo


def check(record: ChaosRecord, database: Mongo, s3: S3Access) -> Iterator[Row]:
    """Every row, in the order of the table. MongoDB and S3 must still answer."""
    history = list(moves(record.changes))
    yield from ends.rows(record, history)
    yield from effects.rows(record, history)
    yield from fencing.rows(record, history)
    yield from rescues.rows(record, history)
    yield from events.rows(record, database)
    yield from views.rows(database, record.seed)
    yield from artifacts.rows(database, s3)
    yield from processes.rows(record)
