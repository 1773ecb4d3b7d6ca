"""Documents as another program may write them: a good one of every collection, with a value of any type anywhere.

`insert` stores them as they are, also with text that is not valid UTF-8, which the driver would refuse to encode.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import bson
from bson.datetime_ms import DatetimeMS
from bson.decimal128 import Decimal128
from bson.errors import BSONError
from bson.max_key import MaxKey
from bson.min_key import MinKey
from bson.objectid import ObjectId
from bson.raw_bson import RawBSONDocument
from bson.regex import Regex
from bson.timestamp import Timestamp
from hypothesis import strategies as st
from pymongo.database import Database
from pymongo.errors import OperationFailure

Document = dict[str, Any]

NOW = datetime.now(UTC).replace(microsecond=0)
OLD = NOW - timedelta(days=100)
_PLACEHOLDER = "bad-utf-8-goes-here"
_INVALID = b"\xff\xfe" + b"x" * (len(_PLACEHOLDER) - 4) + b"\xc3\x28"


@dataclass(frozen=True)
class Missing:
    """Takes the field away."""


class InvalidText(str):
    """Stands for text that is not valid UTF-8."""

    __slots__ = ()


def of_run(run_id: str, **fields: Any) -> Document:
    return {
        "_id": run_id, "pipeline": "synthetic", "queue": "synthetic", "priority": 5, "params": {"stages": 1},
        "attempt": 2, "maxAttempts": 5, "retryCount": 1, "crashCount": 1, "checkpoints": {"s": {"done": True}},
        "requirements": {"gpu": None, "minVramGb": 0.0}, "labels": {"team": "a"}, "history": [{"what": "claimed"}],
        "createdAt": OLD, "queuedAt": OLD, "metrics": {"loss": 1.0}, "stageTiming": {"s": {"durationS": 1.0}},
        "currentStage": {"name": "s", "progress": 0.5}, "v": {"metrics": {"loss": "0"}}, "hypothesisId": "h1",
        "leasedAttempt": 2, "lastEventSeq": 3, "errorCode": "NETWORK", "errorMessage": "x", "runAfter": OLD,
        "heldUntil": OLD, "hidden": False, "pod": {"id": "p"},
    } | fields  # fmt: skip


def _leased(run_id: str, ends: datetime) -> Document:
    return of_run(
        run_id, status="RUNNING", leaseToken=f"token-{run_id}", leaseExpiresAt=ends, claimedBy="w0", claimedAt=OLD
    )  # fmt: skip


IDEA = {
    "Name": "n", "Title": "t", "Short Hypothesis": "h", "Related Work": "", "Abstract": "a", "Experiments": ["e"],
    "Risk Factors and Limitations": ["r"],
}  # fmt: skip


def of_request(request_id: str, **fields: Any) -> Document:
    return {
        "_id": request_id, "hypothesisId": "h1", "reflections": 2, "maxNumGenerations": 3, "priority": 1,
        "params": {"model": "m"}, "createdAt": OLD, "createdBy": "ana",
    } | fields  # fmt: skip


TEMPLATES: dict[str, tuple[str, Document]] = {
    "queued run": ("runs", of_run("queued", status="QUEUED")),
    "run with an expired lease": ("runs", _leased("expired", OLD)),
    "run with a live lease": ("runs", _leased("live", NOW + timedelta(days=1))),
    "canceled run with an expired lease": ("runs", _leased("leaving", OLD) | {"cancelRequestedAt": OLD}),
    "old completed run": ("runs", of_run("ended", status="COMPLETED", completedAt=OLD)),
    "condemned run": ("runs", of_run("condemned", status="COMPLETED", completedAt=OLD, condemnedAt=OLD)),
    "paused queue": ("queues", {"_id": "paused", "paused": True, "by": "x", "at": OLD}),
    "event": (
        "events",
        {"_id": "e1", "runId": "good", "attempt": 1, "seq": 1, "type": "ai.run.log", "time": OLD, "receivedAt": OLD,
         "position": 7, "source": "s", "data": {"run_id": "good", "level": "info", "message": "x"}, "level": "info",
         "notable": True, "traceparent": "t", "isAttemptImplied": False, "isFenced": False},
    ),
    "dead letter": ("events_dead", {"_id": "d1", "line": "x", "bytes": 1, "code": "bad_json", "receivedAt": OLD}),
    "series": (
        "metrics",
        {"_id": "m1", "runId": "good",
         "columns": [{"s": "s", "n": "loss", "a": [1], "q": [1], "i": ["e"], "k": [1], "x": [0.5], "t": [OLD],
                      "e": {"0": 1.0}, "u": "nats"}]},
    ),
    "stage": (
        "stages",
        {"_id": "good:s", "runId": "good", "name": "s", "status": "RUNNING", "progress": 0.5, "startedAt": OLD,
         "v": {"status": "0"}},
    ),
    "validation": ("validations", {"_id": "good:auto", "runId": "good", "kind": "auto", "verdict": "pass"}),
    "artifact": (
        "artifacts",
        {"_id": "good:plot:ff", "runId": "ended", "key": "runs/ended/1/a.png", "kind": "plot", "bytes": 1,
         "sha256": "ff", "verifiedAt": OLD, "createdAt": OLD, "attempt": 1},
    ),
    "worker": ("workers", {"_id": "w0", "podId": "p", "mode": "all", "state": "busy", "runId": "good",
                           "lastSeen": OLD, "gpu": "x", "reason": None}),
    "intent": (
        "pod_intents",
        {"_id": "i1", "orderId": "o1", "attempt": 1, "recordedAt": OLD, "placement": "x", "state": "CREATED",
         "podId": "p", "note": ""},
    ),
    "marker": ("pending_projections", {"_id": "x:good", "owner": "x", "runId": "good", "since": 1, "seenAt": OLD}),
    "hypothesis": (
        "hypotheses",
        {"_id": "h1", "title": "x", "idea": "text", "additionalContext": "y", "createdAt": OLD, "hidden": False,
         "ideaJson": IDEA, "ideaSource": {"by": "ideation", "index": 0}, "launchWhenReady": True,
         "launchRunId": "launched", "launchParams": {"a": 1}, "v": {"ideaJson": "0"},
         "ideation": {"requestId": "q1", "status": "QUEUED", "requestedAt": OLD, "ideas": [IDEA]}},
    ),
    "waiting ideation request": ("ideation_requests", of_request("q1", status="QUEUED")),
    "adopted ideation request": (
        "ideation_requests",
        of_request("queued", status="RUNNING", runId="queued", ideas=[IDEA], ideaCount=1, v={"ideas": "0"}),
    ),
}  # fmt: skip

# Fields that decide, with the ones that are read below them.
_DEEP = (
    "params.stages", "checkpoints.s", "checkpoints.s.done", "requirements.gpu", "requirements.minVramGb",
    "labels.team", "metrics.loss", "currentStage.progress", "data.message", "data.run_id", "v.metrics", "v.status",
    "columns.0", "columns.0.s", "columns.0.a", "columns.0.a.0", "columns.0.q.0", "columns.0.k.0", "columns.0.x.0",
    "columns.0.t.0", "columns.0.e", "columns.0.e.0", "columns.0.u", "ideation.requestId", "ideation.status",
    "ideation.ideas", "ideation.requestedAt", "ideaSource.by", "ideaJson.Title", "params.model", "ideas.0",
    "ideas.0.Title", "v.ideas", "v.ideaJson",
)  # fmt: skip

VALUES: st.SearchStrategy[Any] = st.sampled_from(
    [
        Missing(), None, True, False, 0, 1, -1, 3, 2**31, 2**40, 2**62, 2**63 - 1, -(2**63), 0.5, 1.0, -0.0, 1e300,
        float("nan"), float("inf"), float("-inf"), Decimal128("1E+6000"), Decimal128("NaN"), Decimal128("3"),
        "", "text", "three", "..", "/", "a:b", "$x", "\0", "QUEUED", "RUNNING", "x" * 2000,
        InvalidText(), [], [None], [1, "a"], ["synthetic"], [{"a": 1}], {}, {"a": 1}, {"$x": 1}, {"": 1},
        {"done": float("nan"), "state": 7}, b"\xff", ObjectId("6564b6f0a1b2c3d4e5f60718"), Regex("a"),
        Timestamp(1, 1), MinKey(), MaxKey(), OLD, NOW + timedelta(days=3650), DatetimeMS(2**62),
        DatetimeMS(-(2**62)), DatetimeMS(253402300800000),
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Foreign:
    """One document of a template with some of its fields replaced."""

    template: str
    changes: tuple[tuple[str, Any], ...]

    @property
    def collection(self) -> str:
        return TEMPLATES[self.template][0]

    def document(self) -> Document:
        made = copy.deepcopy(TEMPLATES[self.template][1])
        for path, value in self.changes:
            _put(made, path.split("."), copy.deepcopy(value))  # a value may become its own parent
        return made


@st.composite
def _foreign(draw: st.DrawFn) -> Foreign:
    template = draw(st.sampled_from(sorted(TEMPLATES)))
    document = TEMPLATES[template][1]
    paths = [*document, *(path for path in _DEEP if path.split(".")[0] in document), "somethingElse"]
    changes = draw(st.lists(st.tuples(st.sampled_from(paths), VALUES), min_size=1, max_size=3))
    return Foreign(template, tuple(changes))


FOREIGN = st.lists(_foreign(), min_size=1, max_size=3)


def insert(database: Database[Document], documents: Sequence[Foreign]) -> list[tuple[str, Any]]:
    """What MongoDB accepted, as collection and id. It refuses duplicates, array ids, some field names."""
    stored = []
    for each in documents:
        document = each.document()
        document.setdefault("_id", f"without-{len(stored)}")
        try:
            raw = bson.encode(_with_placeholders(document)).replace(_PLACEHOLDER.encode(), _INVALID)
            database[each.collection].insert_one(RawBSONDocument(raw))
        except (BSONError, OperationFailure):  # a document that cannot be stored harms nothing
            continue
        stored.append((each.collection, document["_id"]))
    return stored


def _with_placeholders(value: Any) -> Any:
    if isinstance(value, InvalidText):
        return _PLACEHOLDER
    if isinstance(value, dict):
        return {key: _with_placeholders(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_placeholders(inner) for inner in value]
    return value


def _put(document: Any, path: list[str], value: Any) -> None:
    first, *rest = path
    key: Any = int(first) if isinstance(document, list) and first.isdigit() else first
    if not isinstance(document, dict | list) or (isinstance(document, list) and not isinstance(key, int)):
        return  # an earlier change replaced the parent
    if rest:
        inner = document.get(key) if isinstance(document, dict) else document[key] if key < len(document) else None
        _put(inner, rest, value)
    elif isinstance(value, Missing):
        if isinstance(document, dict):
            document.pop(key, None)
    elif isinstance(document, dict) or key < len(document):
        document[key] = value
