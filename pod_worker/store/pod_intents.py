"""The intent log of pod creation in MongoDB (`pod_intents`), shared by every machine that may rent a pod.

Unique indexes, not code, guarantee that a name is used once, that an attempt is recorded once, and that at most
one intent of an order is CREATED. Intents are never deleted here: a pod may show up long after its create was
given up.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from pymongo import ASCENDING, IndexModel
from pymongo.errors import DuplicateKeyError

from pod_worker.core.pod_intent import INTENT_TRANSITIONS, IntentConflictError, IntentState, PodIntent
from pod_worker.store.collections import POD_INTENTS
from pod_worker.store.mongo import Document, Mongo

INDEXES: dict[str, list[IndexModel]] = {
    POD_INTENTS: [
        IndexModel([("orderId", ASCENDING), ("attempt", ASCENDING)], name="attempt_of_order", unique=True),
        IndexModel(
            [("orderId", ASCENDING)],
            name="one_pod_per_order",
            unique=True,
            partialFilterExpression={"state": IntentState.CREATED.value},
        ),
        IndexModel([("podId", ASCENDING)], name="pod"),
    ]
}


class PodIntents:
    def __init__(self, db: Mongo) -> None:
        self._intents = db[POD_INTENTS]

    def ensure_indexes(self) -> None:
        self._intents.create_indexes(INDEXES[POD_INTENTS])

    def record(self, intent: PodIntent) -> None:
        try:
            self._intents.insert_one(_document(intent))
        except DuplicateKeyError:
            # Also the driver's own retry of an insert whose reply was lost: then the stored one is ours.
            if self.named({intent.name}).get(intent.name) != _rounded(intent):
                raise IntentConflictError(intent.order_id, intent.attempt) from None

    def advance(
        self,
        name: str,
        *,
        expect: Collection[IntentState],
        to: IntentState,
        pod_id: str | None = None,
        note: str = "",
    ) -> bool:
        allowed = [state.value for state in expect if to in INTENT_TRANSITIONS[state]]
        changes: Document = {"state": to.value, "note": note}
        if pod_id is not None:
            changes["podId"] = pod_id
        try:
            result = self._intents.update_one({"_id": name, "state": {"$in": allowed}}, {"$set": changes})
        except DuplicateKeyError:
            return False
        return result.matched_count == 1

    def of_order(self, order_id: str) -> Sequence[PodIntent]:
        return [_intent(found) for found in self._intents.find({"orderId": order_id}).sort("attempt", ASCENDING)]

    def named(self, names: Collection[str]) -> Mapping[str, PodIntent]:
        found = map(_intent, self._intents.find({"_id": {"$in": list(names)}}))
        return {intent.name: intent for intent in found}

    def of_pod(self, pod_id: str) -> PodIntent | None:
        found = self._intents.find_one({"podId": pod_id})
        return None if found is None else _intent(found)


def _document(intent: PodIntent) -> Document:
    return {
        "_id": intent.name,
        "orderId": intent.order_id,
        "attempt": intent.attempt,
        "recordedAt": intent.recorded_at,
        "placement": intent.placement,
        "state": intent.state.value,
        "podId": intent.pod_id,
        "note": intent.note,
    }


def _rounded(intent: PodIntent) -> PodIntent:
    return _intent(_document(intent))


def _intent(found: Document) -> PodIntent:
    recorded_at, attempt, pod_id = found["recordedAt"], found["attempt"], found.get("podId")
    assert isinstance(recorded_at, datetime), "record() writes a date"
    assert isinstance(attempt, int), "record() writes a number"
    return PodIntent(
        name=str(found["_id"]),
        order_id=str(found["orderId"]),
        attempt=attempt,
        recorded_at=recorded_at.replace(microsecond=recorded_at.microsecond // 1000 * 1000),
        placement=str(found["placement"]),
        state=IntentState(str(found["state"])),
        pod_id=None if pod_id is None else str(pod_id),
        note=str(found.get("note", "")),
    )
