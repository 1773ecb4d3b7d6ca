"""Changes of a run by an operator: its name, labels, queue and priority.

Name and labels change at any time, queue and priority only while the run waits. Each edit is one
conditional write, so that no worker claims the run between a check and the change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pymongo import ReturnDocument

from pod_worker.core.run import InvalidRunError, RunStatus
from pod_worker.store.collections import RUNS
from pod_worker.store.mongo import Document, Mongo, literal, tolerant_rows
from pod_worker.store.queue.document_room import write_with_room
from pod_worker.store.queue.operations import ActionOutcome, ActionResult
from pod_worker.store.queue.run_document import history_append, run_from_document
from pod_worker.store.queue.run_request import check_storable, name_fault


@dataclass(frozen=True, slots=True)
class RunEdit:
    """New values; None keeps the old one, and an empty name removes the name."""

    name: str | None = None
    queue: str | None = None
    priority: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    removed_labels: Sequence[str] = ()

    @property
    def is_for_waiting_runs(self) -> bool:
        return self.queue is not None or self.priority is not None


def check_edit(edit: RunEdit) -> None:
    """Raises InvalidRunError for values that a run cannot have."""
    if edit.queue is not None and not edit.queue.strip():
        raise InvalidRunError("The queue is empty. Give its name.")
    if edit.name and (fault := name_fault(edit.name)):
        raise InvalidRunError(fault)
    for what, value in (("name", edit.name), ("queue", edit.queue), ("priority", edit.priority)):
        check_storable(what, value)
    check_storable("labels", dict(edit.labels))


class RunEdits:
    def __init__(self, database: Mongo) -> None:
        self._runs = tolerant_rows(database, RUNS)

    def apply(self, run_id: str, edit: RunEdit, by: str | None = None) -> ActionOutcome:
        """LIVE: refused, because the run waits no longer and the edit is for waiting runs.

        Raises InvalidRunError.
        """
        check_edit(edit)
        condition: Document = {"_id": run_id}
        if edit.is_for_waiting_runs:
            condition["status"] = RunStatus.QUEUED.value
        update: list[Document] = [{"$set": _values(edit, by)}]
        after = write_with_room(
            lambda each: self._runs.find_one_and_update(condition, each, return_document=ReturnDocument.AFTER),
            update,
        )
        if after is not None:
            return ActionOutcome(ActionResult.DONE, run_from_document(after))
        found = self._runs.find_one({"_id": run_id})
        if found is None:
            return ActionOutcome(ActionResult.MISSING)
        return ActionOutcome(ActionResult.LIVE, run_from_document(found))


def _values(edit: RunEdit, by: str | None) -> Document:
    values: Document = {}
    if edit.name is not None:
        values["name"] = literal(edit.name) if edit.name else "$$REMOVE"
    if edit.queue is not None:
        values["queue"] = literal(edit.queue)
    if edit.priority is not None:
        values["priority"] = edit.priority
    if edit.labels or edit.removed_labels:
        values["labels"] = _labels(edit)
    values["history"] = history_append("changed", by=by, detail=_detail(edit))
    return values


def _labels(edit: RunEdit) -> Document:
    """The labels of the run without the removed ones, with the new ones."""
    known = {"$cond": [{"$eq": [{"$type": "$labels"}, "object"]}, "$labels", literal({})]}
    kept = {
        "$arrayToObject": {
            "$filter": {
                "input": {"$objectToArray": known},
                "cond": {"$not": [{"$in": ["$$this.k", literal(list(edit.removed_labels))]}]},
            }
        }
    }
    return {"$mergeObjects": [kept, literal(dict(edit.labels))]}


def _detail(edit: RunEdit) -> str:
    given = {"name": edit.name, "queue": edit.queue, "priority": edit.priority}
    parts = [f"{what}={value}" for what, value in given.items() if value is not None]
    parts += [f"label {name}={value}" for name, value in edit.labels.items()]
    return ", ".join(parts + [f"label {name} removed" for name in edit.removed_labels])
