"""Ideation requests: what front ends insert and people look at.

A request is carried out by a run of the same id in the queue `ideation`; `adoption` makes it. The run is the truth
about its state, so readers take the state from the run; `status_sync` writes it for readers of the document alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pymongo import ASCENDING, DESCENDING, IndexModel

from pod_worker.core.identifiers.run_id import run_id_fault
from pod_worker.core.research.ideation import (
    DEFAULT_GENERATIONS,
    DEFAULT_REFLECTIONS,
    REQUEST_PRIORITY,
    refuse,
    request_status,
    size_problems,
)
from pod_worker.core.run import Json, Run
from pod_worker.store.collections import IDEATION_REQUESTS, RUNS
from pod_worker.store.mongo import Document, Mongo, literal, tolerant_rows
from pod_worker.store.queue.run_document import run_from_document

NEWEST_FIRST = [("createdAt", DESCENDING), ("_id", DESCENDING)]

INDEXES: dict[str, list[IndexModel]] = {
    IDEATION_REQUESTS: [
        IndexModel([("status", ASCENDING), ("runId", ASCENDING), ("createdAt", ASCENDING)], name="waiting"),
        IndexModel(NEWEST_FIRST, name="newest"),
        IndexModel([("hypothesisId", ASCENDING), *NEWEST_FIRST], name="by_hypothesis"),
    ]
}


@dataclass(frozen=True, slots=True, kw_only=True)
class IdeationRequest:
    """A request to insert. Its run gets the same id."""

    id: str
    hypothesis_id: str
    reflections: int = DEFAULT_REFLECTIONS
    max_num_generations: int = DEFAULT_GENERATIONS
    priority: int = REQUEST_PRIORITY
    params: Mapping[str, Json] = field(default_factory=dict)  # further parameters of the run
    created_by: str | None = None


class IdeationRequests:
    def __init__(self, database: Mongo) -> None:
        self._rows = tolerant_rows(database, IDEATION_REQUESTS)
        self._runs = tolerant_rows(database, RUNS)

    def insert(self, request: IdeationRequest) -> None:
        """Once; the same id again changes nothing. Raises RunError(INVALID_INPUT)."""
        fault = run_id_fault(request.id)
        problems = [f"its id {fault}"] if fault else []
        problems += size_problems(request.reflections, request.max_num_generations)
        refuse(problems, "the ideation request cannot be stored")
        document: Document = {
            "_id": request.id,
            "hypothesisId": request.hypothesis_id,
            "status": "QUEUED",
            "reflections": request.reflections,
            "maxNumGenerations": request.max_num_generations,
            "priority": request.priority,
        }
        if request.params:
            document["params"] = dict(request.params)
        if request.created_by:
            document["createdBy"] = request.created_by
        fresh = {"$mergeObjects": [literal(document), {"createdAt": "$$NOW"}]}
        is_new = {"$eq": [{"$type": "$createdAt"}, "missing"]}
        update: list[Document] = [{"$replaceWith": {"$cond": [is_new, fresh, "$$ROOT"]}}]
        self._rows.update_one({"_id": request.id}, update, upsert=True)

    def get(self, request_id: str) -> Document | None:
        """The request with the state of its run."""
        found = self._rows.find_one({"_id": request_id}, {"v": 0})
        return self._with_runs([found])[0] if found else None

    def newest(self, limit: int, hypothesis_id: str | None = None) -> list[Document]:
        """Without the ideas, newest first, with the states of their runs."""
        condition: Document = {"hypothesisId": hypothesis_id} if hypothesis_id else {}
        found = self._rows.find(condition, {"v": 0, "ideas": 0}).sort(NEWEST_FIRST).limit(limit)
        return self._with_runs(list(found))

    def ids_with_prefix(self, part: str, limit: int) -> list[tuple[str, str]]:
        """Id and state of requests whose id begins with `part`."""
        condition = {"_id": {"$gte": part, "$lt": part + "\U0010ffff"}}
        found = self._rows.find(condition, {"status": 1}).sort("_id", ASCENDING).limit(limit)
        return [(str(row["_id"]), str(row.get("status", "-"))) for row in found]

    def _with_runs(self, requests: list[Document]) -> list[Document]:
        run_ids = [request["runId"] for request in requests if isinstance(request.get("runId"), str)]
        found = self._runs.find({"_id": {"$in": run_ids}}) if run_ids else ()
        runs = {run["_id"]: run_from_document(run) for run in found}
        return [
            request | shown_state(run) if (run := runs.get(str(request.get("runId")))) else request
            for request in requests
        ]


def shown_state(run: Run) -> Document:
    """The fields of a request that follow from its run."""
    status = request_status(run.status)
    error = f"{run.error_code}: {run.error_message}" if status == "FAILED" and run.error_code else None
    return {"status": status, "attempt": run.attempt, "error": error}
