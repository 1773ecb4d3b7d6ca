"""The intent log of pod creation in MongoDB, shared by all machines that rent.

Unique indexes, not code, guarantee that a name is used once, that an attempt is recorded once, and that at most
one intent of an order is CREATED. Intents of pods that may live are never deleted: a pod may appear long after
its create request was given up. Failed and retired ones expire after half a year.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence

from pymongo import ASCENDING, IndexModel
from pymongo.errors import DuplicateKeyError

from pod_worker.core.pod_intent import (
    INTENT_TRANSITIONS,
    IntentConflictError,
    IntentState,
    PodIntent,
    UnreadableIntentError,
)
from pod_worker.store.collections import POD_INTENTS
from pod_worker.store.document_fields import counter, moment, text
from pod_worker.store.mongo import Document, Mongo, tolerant_rows

log = logging.getLogger(__name__)

KEPT_SECONDS = 180 * 24 * 3600
_OVER = [IntentState.FAILED.value, IntentState.RETIRED.value]

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
        IndexModel(
            [("recordedAt", ASCENDING)],
            name="expiry",
            expireAfterSeconds=KEPT_SECONDS,
            partialFilterExpression={"state": {"$in": _OVER}},
        ),
    ]
}


class PodIntents:
    def __init__(self, db: Mongo) -> None:
        self._intents = tolerant_rows(db, POD_INTENTS)

    def ensure_indexes(self) -> None:
        self._intents.create_indexes(INDEXES[POD_INTENTS])

    def record(self, intent: PodIntent) -> None:
        try:
            self._intents.insert_one(_document(intent))
        except DuplicateKeyError:
            # The driver repeats an insert whose reply was lost: then the stored intent is this one.
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
        found = self._intents.find({"orderId": order_id}).sort("attempt", ASCENDING)
        return [_intent(document) for document in found]

    def named(self, names: Collection[str]) -> Mapping[str, PodIntent]:
        found: dict[str, PodIntent] = {}
        for document in self._intents.find({"_id": {"$in": list(names)}}):
            try:
                intent = _intent(document)
            except UnreadableIntentError as error:
                log.error("%s", error)
            else:
                found[intent.name] = intent
        return found

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


def _intent(document: Document) -> PodIntent:
    """Raises UnreadableIntentError for a document that `record` did not write."""
    name = str(document["_id"])
    recorded_at, attempt = moment(document, "recordedAt"), counter(document.get("attempt"))
    order_id, state = text(document, "orderId"), text(document, "state")
    if recorded_at is None or attempt is None or order_id is None or state not in list(IntentState):
        shown = {field: document.get(field) for field in ("recordedAt", "attempt", "orderId", "state")}
        raise UnreadableIntentError(name, f"its fields are {str(shown)[:300]}")
    return PodIntent(
        name=name,
        order_id=order_id,
        attempt=attempt,
        recorded_at=recorded_at.replace(microsecond=recorded_at.microsecond // 1000 * 1000),
        placement=text(document, "placement") or "",
        state=IntentState(state),
        pod_id=text(document, "podId"),
        note=text(document, "note") or "",
    )
