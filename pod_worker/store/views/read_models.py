"""What people look at, read from the views: lists and details as plain documents, ready for JSON.

Tolerant: a document with odd values is shown as far as it can be, and never breaks a list. Never shows what
fences a run (lease tokens) or how views are kept (versions). Writes nothing.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pymongo import ASCENDING, DESCENDING, IndexModel

from pod_worker.core.run import Json
from pod_worker.core.stage import stage_title
from pod_worker.store.collections import HYPOTHESES, RUNS, STAGES, VALIDATIONS
from pod_worker.store.document_fields import counter
from pod_worker.store.mongo import Document, Mongo, tolerant_rows
from pod_worker.store.views.changes import unquote_segment

TOTAL_LIMIT = 10_000  # counting further would read the whole collection at each page

INDEXES: dict[str, list[IndexModel]] = {
    RUNS: [
        IndexModel(
            [("hypothesisId", ASCENDING), ("createdAt", DESCENDING), ("_id", DESCENDING)],
            name="by_hypothesis",
            partialFilterExpression={"hypothesisId": {"$type": "string"}},
        ),
    ]
}

_SECRET = ("v", "leaseToken", "settledToken")
_LONG = ("params", "checkpoints", "history", "errorTraceback", "stageTiming")
_QUOTED = ("metrics", "stageTiming")


class InvalidCursorError(ValueError):
    """A cursor that this list did not give."""


@dataclass(frozen=True, slots=True)
class RunFilter:
    statuses: Sequence[str] = ()
    pipeline: str | None = None
    hypothesis_id: str | None = None
    with_hidden: bool = False
    queue: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    since: datetime | None = None  # created then or later


@dataclass(frozen=True, slots=True)
class RunPage:
    items: list[Document] = field(default_factory=list)
    total: int = 0  # at most TOTAL_LIMIT
    next_cursor: str | None = None


class ReadModels:
    def __init__(self, database: Mongo) -> None:
        self._database = database
        self._runs = tolerant_rows(database, RUNS)

    def runs(self, wanted: RunFilter, size: int, page: int = 1, cursor: str | None = None) -> RunPage:
        """Newest first. A cursor goes on after the last item of an earlier page; else `page` counts from 1.

        Raises InvalidCursorError.
        """
        condition = _condition(wanted)
        total = self._count(condition)
        if cursor:
            condition = {"$and": [condition, _after(cursor)]}
        hidden_fields = dict.fromkeys(_SECRET + _LONG, 0)
        found = list(
            self._runs.find(condition, hidden_fields)
            .sort([("createdAt", DESCENDING), ("_id", DESCENDING)])
            .skip(0 if cursor else (page - 1) * size)
            .limit(size + 1)
        )
        more = len(found) > size
        return RunPage(
            [_public_view(each) for each in found[:size]], total, _cursor(found[size - 1]) if more else None
        )

    def _count(self, condition: Document) -> int:
        # The sort makes the server walk the list's own index, where a bare count would read everything.
        order = {"$sort": {"createdAt": -1, "_id": -1}}
        steps: list[Document] = [{"$match": condition}, order, {"$limit": TOTAL_LIMIT}, {"$count": "total"}]
        return next((int(each["total"]) for each in self._runs.aggregate(steps)), 0)

    def run(self, run_id: str) -> Document | None:
        found = self._runs.find_one({"_id": run_id}, dict.fromkeys(_SECRET, 0))
        return _public_view(found) if found else None

    def status(self, run_id: str) -> str | None:
        """The status alone; None where there is no such run."""
        found = self._runs.find_one({"_id": run_id}, {"status": 1})
        return str(_public_view(found).get("status")) if found else None

    def ids_with_prefix(self, part: str, limit: int) -> list[str]:
        """Runs whose id begins with `part`: people type the first characters only."""
        found = self._runs.find({"_id": {"$gte": part, "$lt": part + "\uffff"}}, {"_id": 1}).limit(limit)
        return [str(each["_id"]) for each in found] if part else []

    def stages(self, run_id: str) -> list[Document]:
        """In the order in which they started."""
        found = [_with_title(each) for each in self._of_run(STAGES, run_id)]
        return sorted(found, key=_start_order)

    def validations(self, run_id: str) -> list[Document]:
        return self._of_run(VALIDATIONS, run_id)

    def hypothesis(self, hypothesis_id: str | None) -> Document | None:
        if hypothesis_id is None:
            return None
        hypotheses = tolerant_rows(self._database, HYPOTHESES)
        return hypotheses.find_one({"_id": hypothesis_id})

    def _of_run(self, collection: str, run_id: str) -> list[Document]:
        rows = tolerant_rows(self._database, collection)
        return list(rows.find({"runId": run_id}, {"v": 0}).limit(1000))


def _condition(wanted: RunFilter) -> Document:
    condition: Document = {} if wanted.with_hidden else {"hidden": {"$ne": True}}
    if wanted.statuses:
        words = [*wanted.statuses, *(["STARTING"] if "SCHEDULED" in wanted.statuses else [])]
        condition["status"] = words[0] if len(words) == 1 else {"$in": words}
    if wanted.pipeline:
        condition["pipeline"] = wanted.pipeline
    if wanted.queue:
        condition["queue"] = wanted.queue
    if wanted.since:
        condition["createdAt"] = {"$gte": wanted.since}
    if wanted.labels:
        # $getField: a label's name may hold dots and dollar signs.
        condition["$expr"] = {"$and": [_has_label(name, value) for name, value in wanted.labels.items()]}
    if wanted.hypothesis_id:
        # With its type, or the server would not use the partial index.
        condition["hypothesisId"] = {"$eq": wanted.hypothesis_id, "$type": "string"}
    return condition


def _has_label(name: str, value: str) -> Document:
    field = {"$getField": {"field": {"$literal": name}, "input": "$labels"}}
    return {"$eq": [{"$cond": [{"$eq": [{"$type": "$labels"}, "object"]}, field, None]}, {"$literal": value}]}


def _public_view(run: Document) -> Document:
    run["failedAttempts"] = sum(counter(run.get(name)) or 0 for name in ("retryCount", "crashCount"))
    if run.get("status") == "STARTING":
        run["status"] = "SCHEDULED"
    for name in _QUOTED:
        if isinstance(run.get(name), Mapping):
            run[name] = {unquote_segment(key): value for key, value in run[name].items()}
    if isinstance(run.get("currentStage"), Mapping):
        run["currentStage"] = _with_title(run["currentStage"])
    return run


def _with_title(stage: Mapping[str, Json]) -> Document:
    return {**stage, "title": stage_title(str(stage.get("name", "")))}


def _start_order(stage: Document) -> tuple[datetime, str]:
    started = stage.get("startedAt")
    known = started if isinstance(started, datetime) else datetime.max.replace(tzinfo=UTC)
    return known, str(stage.get("name", ""))


def _cursor(run: Document) -> str:
    created = run.get("createdAt")
    stamp = created.isoformat() if isinstance(created, datetime) else None
    return base64.urlsafe_b64encode(json.dumps([stamp, str(run["_id"])]).encode()).decode()


def _after(cursor: str) -> Document:
    try:
        stamp, run_id = json.loads(base64.urlsafe_b64decode(cursor))
        created: Json = datetime.fromisoformat(stamp) if stamp else None
    except (ValueError, TypeError, binascii.Error) as error:
        raise InvalidCursorError(f"cursor {cursor[:60]!r} is not one of ours: {error}") from None
    rest: list[Document] = [{"createdAt": created, "_id": {"$lt": run_id}}]
    if created is not None:
        # Documents without a date come last.
        rest += [{"createdAt": {"$lt": created}}, {"createdAt": None}]
    return {"$or": rest}
