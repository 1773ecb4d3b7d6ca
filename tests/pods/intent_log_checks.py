"""What every intent log must do; each implementation's test runs all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import product

import pytest

from pod_worker.core.pod_intent import INTENT_TRANSITIONS, IntentConflictError, IntentLog, IntentState, PodIntent

FIRST = PodIntent("worker-1", "order", 1, datetime(2026, 11, 22, 12, 0, 0, 123000, tzinfo=UTC), "1 x A in SECURE")


class IntentLogChecks:
    @pytest.fixture
    def log(self) -> Iterator[IntentLog] | IntentLog:
        raise NotImplementedError("the implementation's test class gives its log")

    def test_what_is_recorded_is_read_back_equal(self, log: IntentLog) -> None:
        log.record(FIRST)
        assert list(log.of_order("order")) == [FIRST]
        assert log.named({"worker-1", "worker-9"}) == {"worker-1": FIRST}
        assert log.of_order("another") == []

    def test_an_attempt_is_recorded_once(self, log: IntentLog) -> None:
        log.record(FIRST)
        with pytest.raises(IntentConflictError, match="another launcher"):
            log.record(replace(FIRST, name="worker-2"))

    def test_a_name_is_used_once(self, log: IntentLog) -> None:
        log.record(FIRST)
        with pytest.raises(IntentConflictError):
            log.record(replace(FIRST, attempt=2))

    def test_an_advance_happens_once_and_keeps_the_pod(self, log: IntentLog) -> None:
        log.record(FIRST)
        advance: Callable[..., bool] = log.advance
        assert advance("worker-1", expect={IntentState.PENDING}, to=IntentState.CREATED, pod_id="p1")
        assert not advance("worker-1", expect={IntentState.PENDING}, to=IntentState.CREATED, pod_id="p2")
        assert advance("worker-1", expect={IntentState.CREATED}, to=IntentState.RETIRED, note="done")
        assert list(log.of_order("order")) == [replace(FIRST, state=IntentState.RETIRED, pod_id="p1", note="done")]
        assert not advance("unknown", expect=frozenset(IntentState), to=IntentState.RETIRED)

    @pytest.mark.parametrize(("before", "after"), list(product(IntentState, IntentState)))
    def test_only_the_allowed_transitions(self, log: IntentLog, before: IntentState, after: IntentState) -> None:
        log.record(replace(FIRST, state=before))
        moved = log.advance("worker-1", expect=frozenset(IntentState), to=after)
        assert moved == (after in INTENT_TRANSITIONS[before])

    def test_an_order_has_at_most_one_created_pod(self, log: IntentLog) -> None:
        log.record(FIRST)
        log.record(replace(FIRST, name="worker-2", attempt=2))
        log.record(replace(FIRST, name="worker-3", order_id="another"))
        opened = {IntentState.PENDING}
        assert log.advance("worker-1", expect=opened, to=IntentState.CREATED, pod_id="p1")
        assert not log.advance("worker-2", expect=opened, to=IntentState.CREATED, pod_id="p2")
        assert log.advance("worker-3", expect=opened, to=IntentState.CREATED, pod_id="p3")
        assert log.advance("worker-1", expect={IntentState.CREATED}, to=IntentState.RETIRED)
        assert log.advance("worker-2", expect=opened, to=IntentState.CREATED, pod_id="p2")

    def test_a_pod_leads_back_to_its_intent(self, log: IntentLog) -> None:
        log.record(FIRST)
        assert log.of_pod("p1") is None
        log.advance("worker-1", expect={IntentState.PENDING}, to=IntentState.CREATED, pod_id="p1")
        found = log.of_pod("p1")
        assert found is not None
        assert found.name == "worker-1"
