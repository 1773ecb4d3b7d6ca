"""The MongoDB intent log keeps every promise of the port, and its queries use their indexes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from pod_worker.core.pod_intent import IntentConflictError, IntentLog, IntentState, UnreadableIntentError
from pod_worker.store.collections import POD_INTENTS
from pod_worker.store.mongo import Mongo
from pod_worker.store.pod_intents import PodIntents
from tests.pods.intent_log_checks import FIRST, IntentLogChecks


@pytest.fixture
def intents(db: Mongo) -> PodIntents:
    intents = PodIntents(db)
    intents.ensure_indexes()
    return intents


class TestPodIntents(IntentLogChecks):
    @pytest.fixture
    def log(self, intents: PodIntents) -> IntentLog:
        return intents


def test_of_many_launchers_one_records_the_attempt(intents: PodIntents) -> None:
    def record(number: int) -> bool:
        try:
            intents.record(replace(FIRST, name=f"worker-{number}"))
        except IntentConflictError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(record, range(16))) == 1


def test_of_many_launchers_one_gets_the_orders_pod(intents: PodIntents) -> None:
    for number in range(8):
        intents.record(replace(FIRST, name=f"worker-{number}", attempt=number))

    def win(number: int) -> bool:
        return intents.advance(
            f"worker-{number}", expect={IntentState.PENDING}, to=IntentState.CREATED, pod_id=f"p{number}"
        )

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(win, range(8))) == 1


def test_recording_the_same_intent_again_is_the_drivers_retry_and_no_conflict(intents: PodIntents) -> None:
    intents.record(FIRST)
    intents.record(FIRST)
    assert len(intents.of_order("order")) == 1


@pytest.mark.parametrize("query", [{"orderId": "x"}, {"podId": "x"}, {"_id": {"$in": ["x"]}}])
def test_every_query_uses_an_index(intents: PodIntents, db: Mongo, query: dict[str, object]) -> None:
    intents.record(FIRST)
    plan = str(db[POD_INTENTS].find(query).explain()["queryPlanner"]["winningPlan"])
    assert "IXSCAN" in plan or "IDHACK" in plan
    assert "COLLSCAN" not in plan


@pytest.mark.parametrize(
    "fields", [{"state": "WEIRD"}, {"attempt": float("nan")}, {"recordedAt": "yesterday"}, {"orderId": 7}], ids=str
)
def test_an_intent_that_cannot_be_read_is_never_guessed(
    intents: PodIntents, db: Mongo, fields: dict[str, object]
) -> None:
    good = replace(FIRST, name="good", order_id="o2")
    intents.record(good)
    intents.record(replace(FIRST, name="bad", order_id="o1"))
    db[POD_INTENTS].update_one({"_id": "bad"}, {"$set": fields | {"podId": "p1"}})
    assert set(intents.named({"good", "bad"})) == {"good"}, "the others are read"
    with pytest.raises(UnreadableIntentError, match="bad"):
        intents.of_pod("p1")


def test_only_intents_whose_pod_may_not_live_expire(intents: PodIntents, db: Mongo) -> None:
    expiry = db[POD_INTENTS].index_information()["expiry"]
    assert expiry["partialFilterExpression"] == {"state": {"$in": ["FAILED", "RETIRED"]}}
