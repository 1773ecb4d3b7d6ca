"""Turns ideation requests into runs.

A front end only inserts a document with `status: QUEUED`; it knows neither runs nor leases. Adoption queues a
run with the request's id, so claim, lease, cancel, retry and rescue are the queue's. Every step can be repeated
and may happen in several processes at once: the run is inserted once, and the request is marked last. A request
that cannot be carried out ends as FAILED with the reason.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import datetime

import bson
from bson.codec_options import CodecOptions
from bson.errors import InvalidBSON
from bson.raw_bson import RawBSONDocument
from pymongo import ASCENDING, DESCENDING, ReturnDocument
from pymongo.errors import PyMongoError

from pod_worker.core.failure import truncate
from pod_worker.core.identifiers.run_id import UNREADABLE, run_id_fault
from pod_worker.core.research.ideation import (
    DEFAULT_GENERATIONS,
    DEFAULT_REFLECTIONS,
    PIPELINE,
    REQUEST_PRIORITY,
    size_problems,
    topic_problems,
)
from pod_worker.core.run import InvalidRunError, Json
from pod_worker.store.collections import HYPOTHESES, IDEATION_REQUESTS
from pod_worker.store.document_fields import integer, mapping, moment, plain_json
from pod_worker.store.errors import describe_error, is_permanent_error
from pod_worker.store.ideation.hypotheses import Hypothesis, hypothesis_from_document
from pod_worker.store.mongo import Document, Mongo, literal, tolerant_rows
from pod_worker.store.queue.run_queue import RunQueue, RunRequest

BATCH = 100
PRIOR_REQUESTS = 20  # whose ideas a new request must not repeat
PRIOR_TITLES = 50
_ERROR_LIMIT = 500
# A missing field counts as null.
WAITING: Document = {"status": "QUEUED", "runId": None}

log = logging.getLogger(__name__)


class RequestRefusedError(Exception):
    """The request cannot be carried out; the message is a part of a sentence."""


class RequestAdoption:
    def __init__(self, database: Mongo, queue: RunQueue) -> None:
        self._requests = tolerant_rows(database, IDEATION_REQUESTS)
        self._hypotheses = tolerant_rows(database, HYPOTHESES)
        self._queue = queue

    def adopt_waiting(self) -> list[str]:
        """Queue runs for up to BATCH waiting requests, the oldest first.

        Returns the ids.

        Without any, it costs one indexed query. Raises PyMongoError when the server does not answer.
        """
        found = list(self._requests.find(WAITING).sort("createdAt", ASCENDING).limit(BATCH))
        if any(UNREADABLE in str(request["_id"]) for request in found):
            self._refuse_unreadable()
        return [str(request["_id"]) for request in found if self._adopt(request)]

    def adopt(self, request_id: str) -> bool:
        """The same for one request; False: it does not wait any more."""
        found = self._requests.find_one({"_id": request_id} | WAITING)
        return found is not None and self._adopt(found)

    def _adopt(self, request: Document) -> bool:
        try:
            hypothesis = self._checked_hypothesis(request)
            # First, because the run may bring ideas as soon as it is queued.
            self._link(hypothesis.id, request["_id"], self._requested_at(request))
            self._enqueue(request, hypothesis)
            return self._mark(request["_id"])
        except (RequestRefusedError, InvalidRunError) as error:
            self._refuse(request, str(error))
        except PyMongoError as error:
            if not is_permanent_error(error):
                raise
            self._refuse(request, describe_error(error))
        return False

    def _enqueue(self, request: Document, hypothesis: Hypothesis) -> None:
        priority = integer(request.get("priority"))
        run, _ = self._queue.enqueue(
            RunRequest(
                id=request["_id"],
                pipeline=PIPELINE,
                params=self._params(request, hypothesis),
                priority=REQUEST_PRIORITY if priority is None else priority,
                hypothesis_id=hypothesis.id,
            )
        )
        if run.pipeline != PIPELINE:
            raise RequestRefusedError(f"a run of the pipeline {run.pipeline} has its id already")

    def _checked_hypothesis(self, request: Document) -> Hypothesis:
        """The hypothesis of a request that can be carried out. Raises RequestRefusedError."""
        if fault := run_id_fault(request["_id"]):
            raise RequestRefusedError(f"its id {fault}")
        hypothesis_id = request.get("hypothesisId")
        if not isinstance(hypothesis_id, str):
            raise RequestRefusedError(f"hypothesisId is {str(hypothesis_id)[:60]!r}, not the id of a hypothesis")
        found = self._hypotheses.find_one({"_id": hypothesis_id})
        if found is None:
            raise RequestRefusedError(f"there is no hypothesis {hypothesis_id[:200]!r}")
        hypothesis = hypothesis_from_document(found)
        problems = size_problems(*_sizes(request))
        problems += topic_problems(hypothesis.title, hypothesis.text, hypothesis.context)
        if problems:
            raise RequestRefusedError("; ".join(problems))
        return hypothesis

    def _params(self, request: Document, hypothesis: Hypothesis) -> dict[str, Json]:
        reflections, generations = _sizes(request)
        own: dict[str, Json] = {
            "hypothesis_id": hypothesis.id,
            "title": hypothesis.title,
            "idea": hypothesis.text,
            "reflections": reflections,
            "max_num_generations": generations,
        }
        if hypothesis.context:
            own["context"] = hypothesis.context
        if titles := self._prior_titles(hypothesis.id):
            own["prior_titles"] = titles
        further: dict[str, Json] = plain_json(mapping(request, "params"))
        return further | own

    def _prior_titles(self, hypothesis_id: str) -> list[str]:
        """Titles of the ideas that earlier requests of the hypothesis have brought."""
        order = [("createdAt", DESCENDING), ("_id", DESCENDING)]
        earlier = self._requests.find({"hypothesisId": hypothesis_id}, {"ideas.Title": 1}).sort(order)
        titles = (title for request in earlier.limit(PRIOR_REQUESTS) for title in _titles(request.get("ideas")))
        return list(dict.fromkeys(titles))[:PRIOR_TITLES]

    def _requested_at(self, request: Document) -> datetime:
        """When the request was made; the server's time for a front end that gave none."""
        if found := moment(request, "createdAt"):
            return found
        stamp: list[Document] = [{"$set": {"createdAt": "$$NOW"}}]
        after = self._requests.find_one_and_update(
            {"_id": request["_id"]}, stamp, return_document=ReturnDocument.AFTER
        )
        stamped = moment(after, "createdAt") if after else None
        if stamped is None:
            raise RequestRefusedError("it was deleted")
        return stamped

    def _link(self, hypothesis_id: str, request_id: str, requested_at: datetime) -> None:
        """Make the request the current one of its hypothesis, unless a later one is.

        Projections write ideas to a hypothesis only for its current request.
        """
        fresh = {"requestId": request_id, "status": "QUEUED", "requestedAt": requested_at}
        condition = {
            "_id": hypothesis_id,
            "ideation.requestId": {"$ne": request_id},
            "$expr": {"$lte": ["$ideation.requestedAt", requested_at]},  # a missing date sorts first
        }
        # The versions of the former request's fields would outrank those of this one.
        forgotten = {"$unset": ["v.ideation", "v.ideaJson"]}
        self._hypotheses.update_one(condition, [{"$set": {"ideation": literal(fresh)}}, forgotten])

    def _mark(self, run_id: str) -> bool:
        change = {"$set": {"runId": run_id}, "$currentDate": {"adoptedAt": True}}
        return self._requests.update_one({"_id": run_id} | WAITING, change).matched_count == 1

    # ── requests that cannot be carried out ─────────────────────────────────────────────────────────────

    def _refuse(self, request: Document, reason: str) -> None:
        if self._fail({"_id": {"$eq": request["_id"]}} | WAITING, reason):
            log.warning("ideation request %r is refused: %s", str(request["_id"])[:200], reason)
            self._fail_hypothesis(request, reason)

    def _fail(self, condition: Document, reason: str) -> bool:
        error = truncate(f"INVALID_INPUT: {reason}. Correct it and insert another request.", _ERROR_LIMIT)
        change = {"$set": {"status": "FAILED", "error": error}, "$currentDate": {"failedAt": True}}
        try:
            return self._requests.update_one(condition, change).matched_count == 1
        except PyMongoError as refusal:
            if not is_permanent_error(refusal):
                raise
            log.error("an ideation request cannot even be refused: %s", describe_error(refusal))
            return False

    def _fail_hypothesis(self, request: Document, reason: str) -> None:
        """Front ends mark the hypothesis as QUEUED before any request id is known."""
        known = [request["_id"]] if isinstance(request["_id"], str) else []
        condition = {
            "_id": {"$eq": request.get("hypothesisId")},
            "ideation.status": "QUEUED",
            "ideation.requestId": {"$in": [None, *known]},
        }
        change = {"$set": {"ideation.status": "FAILED", "ideation.error": truncate(reason, _ERROR_LIMIT)}}
        try:
            self._hypotheses.update_one(condition, change)
        except PyMongoError as refusal:
            if not is_permanent_error(refusal):
                raise

    def _refuse_unreadable(self) -> None:
        """Requests whose id is not valid UTF-8, addressed by the bytes of the server."""
        raw = self._requests.with_options(codec_options=CodecOptions(document_class=RawBSONDocument))
        for found in raw.find(WAITING, {"_id": 1}):
            try:
                bson.decode(found.raw)
            except InvalidBSON:
                self._fail(found, "its id is not valid UTF-8")  # type: ignore[arg-type]


def _sizes(request: Document) -> tuple[Json, Json]:
    """Reflections and generations, with defaults where the front end gave none."""
    return (
        _number(request.get("reflections"), DEFAULT_REFLECTIONS),
        _number(request.get("maxNumGenerations"), DEFAULT_GENERATIONS),
    )


def _number(value: Json, default: int) -> Json:
    if value is None:
        return default
    found = integer(value)
    return value if found is None else found


def _titles(ideas: Json) -> Iterator[str]:
    for idea in ideas if isinstance(ideas, list) else []:
        if isinstance(idea, dict) and isinstance(title := idea.get("Title"), str):
            yield title
