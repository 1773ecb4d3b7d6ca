"""The views people look at, kept by three rules that hold in any order and with any repetition.

Facts overwrite only older versions of themselves; points are kept by step; status moves only where
`core.run` allows it, never while a lease is held, and never for an attempt that the queue claimed (the queue
settles those). A batch costs at most one write per collection. Which event means what is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from operator import itemgetter
from typing import TypeAlias

from pymongo import ASCENDING, IndexModel, UpdateOne
from pymongo.errors import BulkWriteError, PyMongoError

from pod_worker.core.event import sortable_version
from pod_worker.core.run import TRANSITIONS, Json, RunStatus, predecessors
from pod_worker.store.collections import ARTIFACTS, RUNS, STAGES, VALIDATIONS
from pod_worker.store.errors import is_duplicate_only, is_permanent_error
from pod_worker.store.mongo import Document, Mongo
from pod_worker.store.views.changes import (
    DocumentChanges,
    RowKey,
    StatusTransition,
    VersionedTransition,
    View,
    ViewChanges,
    quote_segment,
)
from pod_worker.store.views.metric_series import MetricSeries
from pod_worker.store.views.versioned import VERSIONS, Groups, camel_case_path, is_newer, update_if_newer

COLLECTIONS = {View.STAGE: STAGES, View.VALIDATION: VALIDATIONS, View.ARTIFACT: ARTIFACTS}

INDEXES: dict[str, list[IndexModel]] = {
    STAGES: [IndexModel([("runId", ASCENDING)], name="run")],
    VALIDATIONS: [IndexModel([("runId", ASCENDING)], name="run")],
}

_Write: TypeAlias = UpdateOne
PARALLEL_WRITES = 8


class Views:
    def __init__(self, database: Mongo) -> None:
        self._database = database
        self.series = MetricSeries(database)
        self._threads = ThreadPoolExecutor(PARALLEL_WRITES, thread_name_prefix="views")

    def current_attempts(self, run_ids: Sequence[str]) -> dict[str, int]:
        """The current attempt of each run that exists."""
        found = self._database[RUNS].find({"_id": {"$in": list(run_ids)}}, {"attempt": 1})
        return {str(each["_id"]): _integer(each.get("attempt")) for each in found}

    def apply(self, changes: ViewChanges) -> None:
        """Bring the views up to date. Safe to repeat, in any order, at the same time as others.

        Raises PyMongoError when all of it is to be written again; a BulkWriteError that `is_final` when only
        single documents could not be written.
        """
        rows = _with_latest_metrics(changes)
        work: list[Callable[[], None]] = self._writes(rows)
        if changes.series:
            work.append(partial(self.series.add, changes.series))
        self._write_in_parallel(work)

    def _write_in_parallel(self, work: Sequence[Callable[[], None]]) -> None:
        """At the same time, because each write waits for the disk and none needs another's outcome."""
        if not work:
            return
        others = [self._threads.submit(each) for each in work[1:]]
        errors: list[Exception] = []
        for each in (work[0], *(other.result for other in others)):
            try:
                each()
            except PyMongoError as error:
                errors.append(error)
        if errors:  # an unreachable server before a refused document
            raise min(errors, key=is_permanent_error)

    def _writes(self, rows: Mapping[RowKey, DocumentChanges]) -> list[Callable[[], None]]:
        writes: dict[str, list[_Write]] = {}
        for (view, run_id, key), row in rows.items():
            if view is View.RUN:
                writes.setdefault(RUNS, []).append(UpdateOne({"_id": run_id}, _run_update(row)))
            else:
                writes.setdefault(COLLECTIONS[view], []).append(_row_upsert(view, run_id, key, row))
        return [partial(bulk_upsert, self._database, collection, batch) for collection, batch in writes.items()]

    def clear_projected(self, run_id: str) -> None:
        """Forget what replaying the event log will bring back: not the heartbeat and the metric series (their
        events are not kept for ever), not what the queue or a verified upload wrote."""
        self._database[STAGES].delete_many({"runId": run_id})
        self._database[VALIDATIONS].delete_many({"_id": f"{run_id}:auto"})
        self._database[ARTIFACTS].delete_many({"runId": run_id, "verifiedAt": None})
        gone = [*_REPLAYED, VERSIONS]
        self._database[RUNS].update_one(
            {"_id": run_id},
            [
                {"$set": {"kept": {name: f"${VERSIONS}.{name}" for name in _KEPT}}},
                {"$unset": gone},
                {"$set": {VERSIONS: "$kept"}},
                {"$unset": "kept"},
            ],
        )


_KEPT = ("heartbeat", "status", "error", "completed", "canceled")
_REPLAYED = [
    "currentStage",
    "stageTiming",
    "metrics",
    "startedAt",
    "lastEventSeq",
    "totalDurationS",
    "interruption",
    "trainingCheckpoint",
    "paper",
    "budget",
    "gpuShortage",
]


def _with_latest_metrics(changes: ViewChanges) -> Mapping[RowKey, DocumentChanges]:
    """The rows, and in them the run's latest value of every metric."""
    all_of = ViewChanges()
    all_of.merge_rows(changes)
    for (run_id, _, name), points in changes.series.items():
        shown = [each for each in points if each[1].is_latest_shown]
        if shown:
            version, newest = max(shown, key=itemgetter(0))
            path = f"metrics.{quote_segment(name)}"
            all_of.rows[View.RUN, run_id, ""].add(path, version, {path: newest.value})
    return all_of.rows


def bulk_upsert(database: Mongo, collection: str, writes: list[_Write]) -> None:
    """One round trip. Two first upserts of one row can collide; the loser's second try finds the row."""
    try:
        database[collection].bulk_write(writes, ordered=False)
    except BulkWriteError as error:
        if not is_duplicate_only(error):
            raise
        again = [writes[each["index"]] for each in error.details["writeErrors"]]
        database[collection].bulk_write(again, ordered=False)


# ── facts ───────────────────────────────────────────────────────────────────────────────────────────────────


def _row_upsert(view: View, run_id: str, key: str, row: DocumentChanges) -> _Write:
    own: Document = {"runId": {"$literal": run_id}}
    unless: Document | None = None
    if view is View.STAGE:
        own["name"] = {"$literal": key}
        own["status"] = {"$ifNull": ["$status", "RUNNING"]}  # progress without a word of its start
    if view is View.VALIDATION:
        own |= {"kind": key, "createdBy": {"$ifNull": ["$createdBy", "auto"]}}
    if view is View.ARTIFACT:
        # What the object store confirmed outranks what an event claims.
        unless = {"$eq": [{"$type": "$verifiedAt"}, "date"]}
    return UpdateOne(
        {"_id": f"{run_id}:{key}"}, [update_if_newer(_groups(row), unless), {"$set": own}], upsert=True
    )


def _groups(row: DocumentChanges) -> Groups:
    return {group: (sortable_version(version), fields) for group, (version, fields) in row.newest.items()}


def _run_update(row: DocumentChanges) -> list[Document]:
    update = [update_if_newer(_groups(row))] if row.newest else []
    for stamped in sorted(row.moves, key=lambda each: each.version):
        update.append({"$set": _move_values(stamped, stamped.move)})
    return update


# ── status ──────────────────────────────────────────────────────────────────────────────────────────────────


def _move_values(stamped: VersionedTransition, move: StatusTransition) -> Document:
    status = {"$ifNull": ["$status", "QUEUED"]}
    is_free: list[Document] = [
        {"$eq": [{"$ifNull": ["$attempt", 0]}, stamped.attempt]},
        {"$ne": ["$leasedAttempt", stamped.attempt]},
        {"$lte": ["$leaseToken", None]},  # missing or null
    ]
    version = sortable_version(stamped.version)
    mark = f"{VERSIONS}.status"
    moves = {"$and": [*is_free, {"$in": [status, _allowed_sources(move.path)]}, is_newer(mark, version)]}
    values = {
        "status": {"$cond": [moves, move.path[-1].value, "$status"]},
        mark: {"$cond": [moves, version, f"${mark}"]},
    }
    moved = {"$in": [status, _at_or_after(move.path[-1])]}
    for group, fields in move.groups.items():
        mark = f"{VERSIONS}.{camel_case_path(group)}"
        holds = {"$and": [*is_free, {"$or": [moves, moved]}, is_newer(mark, version)]}
        values[mark] = {"$cond": [holds, version, f"${mark}"]}
        for path, value in fields.items():
            name = camel_case_path(path)
            values[name] = {"$cond": [holds, "$$REMOVE" if value is None else {"$literal": value}, f"${name}"]}
    return values


def _allowed_sources(path: tuple[RunStatus, ...]) -> list[str]:
    """The states from which walking the path ends at its end."""
    found = [status.value for status in RunStatus if status is not path[-1] and _walk(status, path) is path[-1]]
    return found + (["STARTING"] if RunStatus.SCHEDULED.value in found else [])  # an old word for SCHEDULED


def _walk(status: RunStatus, path: tuple[RunStatus, ...]) -> RunStatus:
    for step in path:
        status = step if status in predecessors(step) else status
    return status


def _at_or_after(status: RunStatus) -> list[str]:
    """Where a run can be that went through the status and was not queued again since."""
    found, new = {status}, {status}
    while new:
        new = {after for each in new for after in TRANSITIONS[each]} - found - {RunStatus.QUEUED}
        found |= new
    return sorted(each.value for each in found)


def _integer(value: Json) -> int:
    return int(value) if isinstance(value, int | float) else 0
