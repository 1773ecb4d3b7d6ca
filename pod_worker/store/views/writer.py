"""Writes the views, by three rules that hold in any order and repetition.

Fields overwrite only older versions of themselves. Points are kept by step. The status moves only where `core.run`
allows it, never while a lease is held, and never for an attempt that the queue claimed, because the queue settles
those. A batch costs at most one write per collection. `control.events.projections` says what an event means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from operator import attrgetter, itemgetter
from typing import TypeAlias

import bson
from pymongo import ASCENDING, IndexModel, UpdateOne
from pymongo.errors import BulkWriteError, PyMongoError

from pod_worker.core.event import sortable_version
from pod_worker.core.failure import truncate
from pod_worker.core.identifiers.row_id import row_id
from pod_worker.core.research.ideation import AUTOMATIC
from pod_worker.core.run import TRANSITIONS, Json, RunStatus, reported_predecessors
from pod_worker.store.collections import (
    ARTIFACTS,
    HYPOTHESES,
    IDEATION_REQUESTS,
    RUNS,
    STAGES,
    VALIDATIONS,
)
from pod_worker.store.document_fields import counter, integer
from pod_worker.store.errors import is_duplicate_only, is_permanent_error
from pod_worker.store.mongo import Document, Mongo, tolerant_rows
from pod_worker.store.views.changes import (
    SELECTED_IDEA,
    CamelCaseKeys,
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

COLLECTIONS = {
    View.STAGE: STAGES,
    View.VALIDATION: VALIDATIONS,
    View.ARTIFACT: ARTIFACTS,
    View.IDEATION: IDEATION_REQUESTS,
    View.HYPOTHESIS: HYPOTHESES,
}

INDEXES: dict[str, list[IndexModel]] = {
    STAGES: [IndexModel([("runId", ASCENDING)], name="run")],
    VALIDATIONS: [IndexModel([("runId", ASCENDING)], name="run")],
}

_Write: TypeAlias = UpdateOne
PARALLEL_WRITES = 8
RUN_TEXT_LIMIT = 16_000  # characters of one text in the run's own document; the event log keeps the whole
ROW_TEXT_LIMIT = 4_000  # the same in the rows of its stages, validations and artifacts, which are shown together
IDEA_TEXT_LIMIT = 16_000  # the same in requests and hypotheses; a whole idea fits (core.ideation)


class Views:
    def __init__(self, database: Mongo) -> None:
        self._database = database
        self.series = MetricSeries(database)
        self._threads = ThreadPoolExecutor(PARALLEL_WRITES, thread_name_prefix="views")

    def current_attempts(self, run_ids: Sequence[str]) -> dict[str, int]:
        """The current attempt of each run that exists."""
        found = tolerant_rows(self._database, RUNS).find({"_id": {"$in": list(run_ids)}}, {"attempt": 1})
        return {str(run["_id"]): counter(run.get("attempt")) or 0 for run in found}

    def last_seqs(self, run_ids: Sequence[str]) -> dict[str, int]:
        """The largest projected `seq` of each run that has one."""
        found = tolerant_rows(self._database, RUNS).find({"_id": {"$in": list(run_ids)}}, {"lastEventSeq": 1})
        return {str(run["_id"]): seq for run in found if (seq := integer(run.get("lastEventSeq"))) is not None}

    def apply(self, changes: ViewChanges) -> None:
        """Bring the views up to date.

        Safe to repeat, in any order, concurrently with other processes.

        Raises PyMongoError when everything is to be written again; a BulkWriteError that `is_partial_write` when
        only single documents could not be written.
        """
        rows = _with_latest_metrics(changes)
        work: list[Callable[[], None]] = self._writes(rows)
        if changes.series:
            work.append(partial(self.series.add, changes.series))
        self._write_in_parallel(work)

    def _write_in_parallel(self, work: Sequence[Callable[[], None]]) -> None:
        """In parallel: each write waits for the disk and none needs another's result."""
        if not work:
            return
        others = [self._threads.submit(write) for write in work[1:]]
        errors: list[Exception] = []
        for write in (work[0], *(other.result for other in others)):
            try:
                write()
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
                writes.setdefault(COLLECTIONS[view], []).append(_row_update(view, run_id, key, row))
        return [partial(bulk_upsert, self._database, collection, batch) for collection, batch in writes.items()]

    def clear_projected(self, run_id: str) -> None:
        """Delete what replaying the event log restores.

        Heartbeats and metric series stay, because their events expire. So does what the queue or a verified
        upload wrote, and the mark of an artifact that was removed.
        """
        self._database[STAGES].delete_many({"runId": run_id})
        self._database[VALIDATIONS].delete_many({"_id": row_id(run_id, "auto")})
        self._database[ARTIFACTS].delete_many({"runId": run_id, "verifiedAt": None, "removedAt": None})
        forgotten: list[Document] = [{"$unset": ["ideas", "ideaCount", "generatedAt", "isScripted", VERSIONS]}]
        self._database[IDEATION_REQUESTS].update_one({"_id": run_id}, forgotten)
        replayed = [*_REPLAYED, VERSIONS]
        self._database[RUNS].update_one(
            {"_id": run_id},
            [
                {"$set": {"kept": {name: f"${VERSIONS}.{name}" for name in _KEPT}}},
                {"$unset": replayed},
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
    """The rows, with the latest value of every metric added to the run's own row."""
    merged = ViewChanges()
    merged.merge_rows(changes)
    for (run_id, _, name), points in changes.series.items():
        shown = [versioned for versioned in points if versioned[1].is_latest_shown]
        if shown:
            version, newest = max(shown, key=itemgetter(0))
            path = f"metrics.{quote_segment(name)}"
            merged.rows[View.RUN, run_id, ""].add(path, version, {path: newest.value})
    return merged.rows


def bulk_upsert(database: Mongo, collection: str, writes: list[_Write]) -> None:
    """One round trip.

    Two first upserts of one row can collide; the loser's repetition finds the row.
    """
    try:
        database[collection].bulk_write(writes, ordered=False)
    except BulkWriteError as error:
        if not is_duplicate_only(error):
            raise
        repeated = [writes[refused["index"]] for refused in error.details["writeErrors"]]
        database[collection].bulk_write(repeated, ordered=False)


# ── fields ───────────────────────────────────────────────────────────────────────────────────────────────────


def _row_update(view: View, run_id: str, key: str, row: DocumentChanges) -> _Write:
    """Rows of requests and hypotheses exist before their events, others do not."""
    if view is View.IDEATION:
        return UpdateOne({"_id": run_id}, [update_if_newer(_groups(row, IDEA_TEXT_LIMIT))])
    if view is View.HYPOTHESIS:
        return UpdateOne({"_id": key, "ideation.requestId": run_id}, _hypothesis_update(row))
    return _row_upsert(view, run_id, key, row)


def _hypothesis_update(row: DocumentChanges) -> list[Document]:
    groups = dict(_groups(row, IDEA_TEXT_LIMIT))
    selected = {SELECTED_IDEA: groups.pop(SELECTED_IDEA)} if SELECTED_IDEA in groups else {}
    update = [update_if_newer(groups)] if groups else []
    if selected:
        is_there = {"$eq": [{"$type": "$ideaJson"}, "object"]}
        is_chosen = {"$ne": [{"$ifNull": ["$ideaSource.by", None]}, AUTOMATIC]}
        update.append(update_if_newer(selected, unless={"$and": [is_there, is_chosen]}))
    return update


def _row_upsert(view: View, run_id: str, key: str, row: DocumentChanges) -> _Write:
    own: Document = {"runId": {"$literal": run_id}}
    unless: Document | None = None
    if view is View.STAGE:
        own["name"] = {"$literal": key}
        own["status"] = {"$ifNull": ["$status", "RUNNING"]}  # progress may arrive before its start
    if view is View.VALIDATION:
        own |= {"kind": key, "createdBy": {"$ifNull": ["$createdBy", "auto"]}}
    if view is View.ARTIFACT:
        # A row that was verified against the object store, or removed after that, outranks an event.
        unless = {"$in": ["date", [{"$type": "$verifiedAt"}, {"$type": "$removedAt"}]]}
    return UpdateOne(
        {"_id": row_id(run_id, key)},
        [update_if_newer(_groups(row, ROW_TEXT_LIMIT), unless), {"$set": own}],
        upsert=True,
    )


def _groups(row: DocumentChanges, text_limit: int) -> Groups:
    return {
        group: (sortable_version(version), _shortened(fields, text_limit))
        for group, (version, fields) in row.newest.items()
    }


def _run_update(row: DocumentChanges) -> list[Document]:
    groups = _groups(row, RUN_TEXT_LIMIT)
    update = [update_if_newer(groups)] if groups else []
    for versioned in sorted(row.moves, key=attrgetter("version")):
        update.append({"$set": _move_values(versioned, versioned.move)})
    return update


def _shortened(fields: Mapping[str, Json], limit: int) -> Mapping[str, Json]:
    """With long values cut.

    A full run document could not be settled, and pages show many rows at once.
    """
    return {path: _shortened_value(value, limit) for path, value in fields.items()}


def _shortened_value(value: Json, limit: int) -> Json:
    if isinstance(value, str):
        return truncate(value, limit)
    if isinstance(value, CamelCaseKeys):
        return CamelCaseKeys(_shortened(value, limit))
    if isinstance(value, dict) and (size := len(bson.encode(value))) > limit:
        return {"cut": f"{size} bytes; the event log keeps the whole"}
    return value


# ── status ──────────────────────────────────────────────────────────────────────────────────────────────────


def _move_values(versioned: VersionedTransition, move: StatusTransition) -> Document:
    status = {"$ifNull": ["$status", "QUEUED"]}
    is_free: list[Document] = [
        {"$eq": [{"$ifNull": ["$attempt", 0]}, versioned.attempt]},
        {"$ne": ["$leasedAttempt", versioned.attempt]},
        {"$lte": ["$leaseToken", None]},  # missing or null
    ]
    version = sortable_version(versioned.version)
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
        for path, value in _shortened(fields, RUN_TEXT_LIMIT).items():
            name = camel_case_path(path)
            values[name] = {"$cond": [holds, "$$REMOVE" if value is None else {"$literal": value}, f"${name}"]}
    return values


def _allowed_sources(path: tuple[RunStatus, ...]) -> list[str]:
    """The states from which the path can be walked to its end."""
    found = [status.value for status in RunStatus if status is not path[-1] and _walk(status, path) is path[-1]]
    return found + (["STARTING"] if RunStatus.SCHEDULED.value in found else [])  # the former name of SCHEDULED


def _walk(status: RunStatus, path: tuple[RunStatus, ...]) -> RunStatus:
    for step in path:
        status = step if status in reported_predecessors(step) else status
    return status


def _at_or_after(status: RunStatus) -> list[str]:
    """The states of a run that passed the status and was not queued again since."""
    found, new = {status}, {status}
    while new:
        new = {after for before in new for after in TRANSITIONS[before]} - found - {RunStatus.QUEUED}
        found |= new
    return sorted(state.value for state in found)
