"""Hypotheses: what a person creates, and the selected idea.

The fields of an ideation (`ideation.*`, an `ideaJson` that no person chose) are written by projections and by
`adoption`. Reading is total, because other programs write hypotheses too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from pymongo import ASCENDING, DESCENDING, IndexModel

from pod_worker.core.identifiers.run_id import run_id_fault
from pod_worker.core.research.idea import read_idea
from pod_worker.core.research.ideation import refuse, topic_problems
from pod_worker.core.run import Json
from pod_worker.store.collections import HYPOTHESES
from pod_worker.store.document_fields import mapping, moment, text
from pod_worker.store.mongo import Document, Mongo, literal, tolerant_rows

NEWEST_FIRST = [("createdAt", DESCENDING), ("_id", DESCENDING)]

INDEXES: dict[str, list[IndexModel]] = {
    HYPOTHESES: [
        IndexModel(NEWEST_FIRST, name="newest"),
        IndexModel(
            [("launchWhenReady", ASCENDING)],
            name="waiting_launches",
            partialFilterExpression={"launchWhenReady": True},
        ),
        IndexModel([("ideation.requestId", ASCENDING)], name="by_request", sparse=True),
    ]
}


@dataclass(frozen=True, slots=True, kw_only=True)
class HypothesisRequest:
    """A hypothesis to create."""

    id: str
    title: str
    text: str
    context: str | None = None
    idea: Mapping[str, Json] | None = None  # a complete idea, which needs no ideation
    created_by: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hypothesis:
    id: str
    title: str
    text: str | None
    context: str | None
    idea: Document | None  # the selected one
    ideas: tuple[Json, ...] = field(default=())  # of its current ideation request
    request_id: str | None = None
    created_at: datetime | None = None


class Hypotheses:
    def __init__(self, database: Mongo) -> None:
        self._rows = tolerant_rows(database, HYPOTHESES)

    def create(self, request: HypothesisRequest) -> bool:
        """False: a hypothesis with this id exists.

        Raises RunError(INVALID_INPUT) that lists every problem.
        """
        fault = run_id_fault(request.id)
        problems = [f"its id {fault}"] if fault else []
        if not request.title.strip():
            problems.append("the title is empty")
        refuse(
            [*problems, *topic_problems(request.title, request.text, request.context)],
            "the hypothesis cannot be stored",
        )
        document: Document = {"_id": request.id, "title": request.title, "idea": request.text}
        if request.context:
            document["additionalContext"] = request.context
        if request.created_by:
            document["createdBy"] = request.created_by
        if request.idea is not None:
            document["ideaJson"] = read_idea(dict(request.idea)).to_json()
            document["ideaSource"] = {"by": request.created_by or "person"}
        fresh = {"$mergeObjects": [literal(document), {"createdAt": "$$NOW"}]}
        is_new = {"$eq": [{"$type": "$createdAt"}, "missing"]}
        update: list[Document] = [{"$replaceWith": {"$cond": [is_new, fresh, "$$ROOT"]}}]
        return self._rows.update_one({"_id": request.id}, update, upsert=True).upserted_id is not None

    def get(self, hypothesis_id: str) -> Hypothesis | None:
        found = self._rows.find_one({"_id": hypothesis_id})
        return hypothesis_from_document(found) if found else None

    def document(self, hypothesis_id: str) -> Document | None:
        """Everything that is stored, for people."""
        return self._rows.find_one({"_id": hypothesis_id}, {"v": 0})

    def newest(self, limit: int, with_hidden: bool = False) -> list[Document]:
        """Without the long fields, newest first."""
        condition: Document = {} if with_hidden else {"hidden": {"$ne": True}}
        hidden_fields = {"v": 0, "additionalContext": 0, "ideation.ideas": 0}
        return list(self._rows.find(condition, hidden_fields).sort(NEWEST_FIRST).limit(limit))

    def ids_with_prefix(self, part: str, limit: int) -> list[tuple[str, str]]:
        """Id and title of hypotheses whose id begins with `part`, the newest last."""
        condition = {"_id": {"$gte": part, "$lt": part + "\U0010ffff"}}
        found = self._rows.find(condition, {"title": 1}).sort("_id", ASCENDING).limit(limit)
        return [(str(row["_id"]), text(row, "title") or "-") for row in found]

    def choose(self, hypothesis_id: str, idea: Mapping[str, Json], index: int, by: str) -> bool:
        """Select an idea, which no later ideation replaces.

        False: there is no such hypothesis.
        """
        source = {"index": index, "by": by}
        update: list[Document] = [
            {
                "$set": {
                    "ideaJson": literal(dict(idea)),
                    "ideaSource": {"$mergeObjects": [literal(source), {"requestId": "$ideation.requestId"}]},
                }
            }
        ]
        return self._rows.update_one({"_id": hypothesis_id}, update).matched_count == 1

    def launch_when_ready(self, hypothesis_id: str, run_id: str, params: Mapping[str, Json]) -> bool:
        """Ask for an experiment with this id as soon as an idea is there.

        `launches` queues it. False: there is no such hypothesis.
        """
        values: Document = {"launchWhenReady": True, "launchRunId": run_id, "launchParams": dict(params)}
        change = {"$set": values, "$unset": {"launchError": ""}}
        return self._rows.update_one({"_id": hypothesis_id}, change).matched_count == 1


def hypothesis_from_document(document: Document) -> Hypothesis:
    """Never raises, except for a document without `_id`."""
    ideation = mapping(document, "ideation")
    ideas, idea = ideation.get("ideas"), document.get("ideaJson")
    body = text(document, "idea")
    title = text(document, "title") or (body or "").strip().partition("\n")[0][:80]
    return Hypothesis(
        id=str(document["_id"]),
        title=title,
        text=body,
        context=text(document, "additionalContext"),
        idea=idea if isinstance(idea, dict) else None,
        ideas=tuple(ideas) if isinstance(ideas, list) else (),
        request_id=text(ideation, "requestId"),
        created_at=moment(document, "createdAt"),
    )
