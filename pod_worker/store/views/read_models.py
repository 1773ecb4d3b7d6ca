"""Lists and details for people, read from the views as plain JSON documents.

Tolerant: a document with values of a wrong type is shown as far as possible and never breaks a list. Lease tokens
and the versions of fields are never shown. Writes nothing.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import bson
from bson.errors import BSONError
from bson.objectid import ObjectId
from pymongo import ASCENDING, DESCENDING, IndexModel

from pod_worker.core.identifiers.run_id import run_id_fault
from pod_worker.core.run import Json
from pod_worker.core.stage import stage_title
from pod_worker.store.collections import HYPOTHESES, RUNS, STAGES, VALIDATIONS
from pod_worker.store.document_fields import counter
from pod_worker.store.mongo import TOLERANT, Document, Mongo, tolerant_rows
from pod_worker.store.views.changes import unquote_segment

ROWS_LIMIT = 200  # stages of one run; a live view reads them all at each poll
_SCANNED = 2000  # runs from which a shell completes names and labels
TOTAL_LIMIT = 10_000  # counting further would read the whole collection at each page

INDEXES: dict[str, list[IndexModel]] = {
    RUNS: [
        IndexModel(
            [("hypothesisId", ASCENDING), ("createdAt", DESCENDING), ("_id", DESCENDING)],
            name="by_hypothesis",
            partialFilterExpression={"hypothesisId": {"$type": "string"}},
        ),
        IndexModel([("queue", ASCENDING), ("createdAt", DESCENDING), ("_id", DESCENDING)], name="by_queue"),
        IndexModel([("labels.$**", ASCENDING)], name="by_label"),
        IndexModel(
            [("name", ASCENDING), ("createdAt", DESCENDING), ("_id", DESCENDING)],
            name="by_name",
            partialFilterExpression={"name": {"$type": "string"}},
        ),
    ]
}

_SECRET = ("v", "leaseToken", "settledToken", "sealedSecrets")
_LONG = ("params", "checkpoints", "history", "errorTraceback", "stageTiming")
_QUOTED = ("metrics", "stageTiming")


class InvalidCursorError(ValueError):
    """The cursor does not come from this list."""


@dataclass(frozen=True, slots=True)
class RunFilter:
    statuses: Sequence[str] = ()
    pipeline: str | None = None
    hypothesis_id: str | None = None
    with_hidden: bool = False
    queue: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    since: datetime | None = None  # created then or later
    name: str | None = None  # a glob: * any text, ? one character


@dataclass(frozen=True, slots=True)
class RunOrder:
    """The order of a list; runs that are equal in it are the newest first."""

    field: str = "createdAt"
    is_descending: bool = True

    def sort(self) -> list[tuple[str, int]]:
        direction = DESCENDING if self.is_descending else ASCENDING
        if self.field == "createdAt":
            return [("createdAt", direction), ("_id", direction)]
        return [(self.field, direction), ("createdAt", DESCENDING), ("_id", DESCENDING)]


NEWEST_FIRST = RunOrder()


@dataclass(frozen=True, slots=True)
class RunPage:
    items: list[Document] = field(default_factory=list)
    total: int = 0  # at most TOTAL_LIMIT
    next_cursor: str | None = None


class ReadModels:
    def __init__(self, database: Mongo) -> None:
        self._database = database
        self._runs = tolerant_rows(database, RUNS)

    def runs(
        self,
        wanted: RunFilter,
        size: int,
        page: int = 1,
        cursor: str | None = None,
        order: RunOrder = NEWEST_FIRST,
    ) -> RunPage:
        """Newest first, or in another order.

        A cursor continues after the last item of an earlier page of the default order; else `page` counts from 1.

        Raises InvalidCursorError.
        """
        condition = _condition(wanted)
        total = self._count(condition)
        if cursor:
            condition = {"$and": [condition, _after(cursor)]}
        hidden_fields = dict.fromkeys(_SECRET + _LONG, 0)
        found = list(
            self._runs.find(condition, hidden_fields)
            .sort(order.sort())
            .skip(0 if cursor else (page - 1) * size)
            .limit(size + 1)
        )
        next_cursor = _cursor(found[size - 1]) if len(found) > size else None
        return RunPage([_public_view(run) for run in found[:size]], total, next_cursor)

    def _count(self, condition: Document) -> int:
        # The sort makes the server walk the list's own index; a bare count would read everything.
        order = {"$sort": {"createdAt": -1, "_id": -1}}
        steps: list[Document] = [{"$match": condition}, order, {"$limit": TOTAL_LIMIT}, {"$count": "total"}]
        return next((int(count["total"]) for count in self._runs.aggregate(steps)), 0)

    def run(self, run_id: str) -> Document | None:
        """One run with all its fields; None where there is no such run.

        Also found by the text of an id that is no string, so that such a run can be looked at.
        """
        hidden_fields = dict.fromkeys(_SECRET, 0)
        found = self._runs.find_one({"_id": run_id}, hidden_fields)
        if found is None and (others := _ids_of_other_types(run_id)):
            found = self._runs.find_one({"_id": {"$in": others}}, hidden_fields)
        return _public_view(found) if found else None

    def status(self, run_id: str) -> str | None:
        """The status alone; None where there is no such run."""
        found = self._runs.find_one({"_id": run_id}, {"status": 1})
        return str(_public_view(found).get("status")) if found else None

    def ids_with_prefix(self, part: str, limit: int) -> list[str]:
        """Runs whose id begins with `part`: people type the first characters only."""
        found = self._runs.find({"_id": {"$gte": part, "$lt": part + "\U0010ffff"}}, {"_id": 1}).limit(limit)
        return [str(run["_id"]) for run in found] if part else []

    def ids_of_name(self, name: str, limit: int) -> list[str]:
        """The newest runs with exactly this name."""
        # With its type, or the server would not use the partial index.
        condition: Document = {"name": {"$eq": name, "$type": "string"}}
        found = self._runs.find(condition, {"_id": 1}).sort(NEWEST_FIRST.sort()).limit(limit)
        return [str(run["_id"]) for run in found]

    def names_with_prefix(self, part: str, limit: int) -> list[str]:
        """Names of runs that begin with `part`, in alphabetical order."""
        condition: Document = {"name": {"$gte": part, "$lt": part + "\U0010ffff", "$type": "string"}}
        steps: list[Document] = [
            {"$match": condition}, {"$sort": {"name": 1}}, {"$limit": _SCANNED}, {"$group": {"_id": "$name"}},
            {"$sort": {"_id": 1}}, {"$limit": limit},
        ]  # fmt: skip
        return [str(each["_id"]) for each in self._runs.aggregate(steps)]

    def queues(self) -> list[str]:
        """Every queue that a run is in."""
        return [each for each in self._runs.distinct("queue") if isinstance(each, str)]

    def newest_labels(self, part: str, limit: int) -> list[str]:
        """`NAME=VALUE` of the labels of the newest runs, as far as they begin with `part`."""
        found = self._runs.find({}, {"labels": 1}).sort(NEWEST_FIRST.sort()).limit(_SCANNED)
        labels = [each for run in found if isinstance(each := run.get("labels"), Mapping)]
        pairs = dict.fromkeys(f"{name}={value}" for each in labels for name, value in each.items())
        return [pair for pair in pairs if pair.startswith(part)][:limit]

    def ids(self, wanted: RunFilter) -> list[str]:
        """The ids of all runs that match, newest first."""
        order = [("createdAt", DESCENDING), ("_id", DESCENDING)]
        return [str(run["_id"]) for run in self._runs.find(_condition(wanted), {"_id": 1}).sort(order)]

    def newest_ids(self, part: str, limit: int) -> list[tuple[str, str, str]]:
        """Id, pipeline and status of the newest runs whose id begins with `part`."""
        condition: Document = {"_id": {"$gte": part, "$lt": part + "\U0010ffff"}} if part else {}
        order = [("_id", DESCENDING)] if part else [("createdAt", DESCENDING), ("_id", DESCENDING)]
        found = self._runs.find(condition, {"pipeline": 1, "status": 1}).sort(order).limit(limit)
        return [(str(run["_id"]), str(run.get("pipeline", "-")), str(run.get("status", "-"))) for run in found]

    def runs_by_id(self, run_ids: Sequence[str]) -> dict[str, Document]:
        """The runs that exist, without their long fields, in one query."""
        hidden_fields = dict.fromkeys(_SECRET + _LONG, 0)
        found = self._runs.find({"_id": {"$in": list(run_ids)}}, hidden_fields)
        return {str(run["_id"]): run for run in map(_public_view, found)}

    def stages(self, run_id: str) -> list[Document]:
        """In the order in which they started."""
        found = [_with_title(stage) for stage in self._of_run(STAGES, run_id)]
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
        return list(rows.find({"runId": run_id}, {"v": 0}).limit(ROWS_LIMIT))


def _condition(wanted: RunFilter) -> Document:
    condition: Document = {} if wanted.with_hidden else {"hidden": {"$ne": True}}
    # An array sorts by one of its elements, so no cursor could continue after such a run.
    condition["$nor"] = [{"createdAt": {"$type": "array"}}]
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
        # What the index of labels finds; an expression can use none, and a path has no dots within a name.
        condition |= {f"labels.{name}": value for name, value in wanted.labels.items() if _is_path(name)}
    if wanted.name is not None:
        condition["name"] = _name_condition(wanted.name)
    if wanted.hypothesis_id:
        # With its type, or the server would not use the partial index.
        condition["hypothesisId"] = {"$eq": wanted.hypothesis_id, "$type": "string"}
    return condition


def _name_condition(pattern: str) -> Document:
    """The name itself, or a glob; with the type, for the partial index."""
    if not any(sign in pattern for sign in "*?"):
        return {"$eq": pattern, "$type": "string"}
    parts = {"*": ".*", "?": "."}
    expression = "".join(parts.get(each) or re.escape(each) for each in pattern)
    return {"$regex": f"^{expression}$", "$options": "s", "$type": "string"}


def _is_path(name: str) -> bool:
    return bool(name) and not name.startswith("$") and "." not in name and "\0" not in name


def _has_label(name: str, value: str) -> Document:
    field = {"$getField": {"field": {"$literal": name}, "input": "$labels"}}
    return {"$eq": [{"$cond": [{"$eq": [{"$type": "$labels"}, "object"]}, field, None]}, {"$literal": value}]}


def _public_view(run: Document) -> Document:
    if fault := run_id_fault(run["_id"]):
        run |= {"_id": str(run["_id"]), "fault": f"No worker claims this run: its id {fault}."}
    run["failedAttempts"] = sum(counter(run.get(name)) or 0 for name in ("retryCount", "crashCount"))
    if run.get("status") == "STARTING":
        run["status"] = "SCHEDULED"
    if run.get("status") == "CANCELED":
        run["canceledBy"] = _canceled_by(run)
    for name in _QUOTED:
        if isinstance(run.get(name), Mapping):
            run[name] = {unquote_segment(key): value for key, value in run[name].items()}
    if isinstance(run.get("currentStage"), Mapping):
        run["currentStage"] = _with_title(run["currentStage"])
    return run


def _canceled_by(run: Mapping[str, Json]) -> Json:
    """Who asked for the end.

    A waiting run ends without a worker's event, so only its history has the author.
    """
    history = run.get("history")
    entries = [each for each in history if isinstance(each, Mapping)] if isinstance(history, list) else []
    authors = [each.get("by") for each in entries if each.get("what") in ("canceled", "cancel requested")]
    return next(filter(None, [run.get("cancelRequestedBy"), *reversed(authors), run.get("canceledBy")]), None)


def _with_title(stage: Mapping[str, Json]) -> Document:
    return {**stage, "title": stage_title(str(stage.get("name", "")))}


def _start_order(stage: Document) -> tuple[datetime, str]:
    started = stage.get("startedAt")
    known = started if isinstance(started, datetime) else datetime.max.replace(tzinfo=UTC)
    return known, str(stage.get("name", ""))


def _cursor(run: Document) -> str:
    key = {"createdAt": run.get("createdAt"), "_id": run["_id"]}
    return base64.urlsafe_b64encode(bson.encode(key)).decode()


def _ids_of_other_types(text: str) -> list[Json]:
    found: list[Json] = [ObjectId(text)] if ObjectId.is_valid(text) else []
    if text.removeprefix("-").isdecimal() and len(text) < 19:
        found.append(int(text))
    return found


def _after(cursor: str) -> Document:
    """The runs behind the cursor. Raises InvalidCursorError."""
    created, run_id = _read_cursor(cursor)
    if not isinstance(run_id, str) or not isinstance(created, datetime | None):
        return _after_any_type(created, run_id)
    # A comparison matches its own type only; the index needs the branches apart.
    rest: list[Document] = [
        {"createdAt": created, "_id": {"$lt": run_id}},
        {"createdAt": created, "_id": {"$type": _BELOW_STRINGS}},
    ]
    if created is not None:
        rest += [{"createdAt": {"$lt": created}}, {"createdAt": None}, {"createdAt": {"$type": _BELOW_DATES}}]
    return {"$or": rest}


# In the order in which MongoDB sorts types.
_BELOW_STRINGS = ["minKey", "null", "number"]
_BELOW_DATES = ["minKey", "number", "string", "object", "binData", "objectId", "bool"]


def _after_any_type(created: Json, run_id: Json) -> Document:
    """Expressions compare values of all types, without an index."""
    known, last = {"$ifNull": ["$createdAt", None]}, {"$literal": created}
    is_before = {"$and": [{"$eq": [known, last]}, {"$lt": ["$_id", {"$literal": run_id}]}]}
    return {"$expr": {"$or": [{"$lt": [known, last]}, is_before]}}


def _read_cursor(cursor: str) -> tuple[Json, Json]:
    try:
        raw = base64.urlsafe_b64decode(cursor)
        key = bson.decode(raw, codec_options=TOLERANT)
        created, run_id = key["createdAt"], key["_id"]
    except (ValueError, KeyError, BSONError, RecursionError) as error:
        reason = type(error).__name__
        raise InvalidCursorError(
            f"The cursor {cursor[:60]!r} does not come from this list ({reason}). Start without a cursor."
        ) from None
    return created, run_id
