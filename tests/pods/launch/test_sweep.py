"""What a sweep terminates, and what it leaves alone."""

from __future__ import annotations

import random

import pytest

from pod_worker.core.clock import ManualClock
from pod_worker.core.pod_intent import IntentState, PodIntent
from pod_worker.pods.launch.sweep import SweepReport, sweep
from pod_worker.pods.pod import Pod, PodSpec
from tests.pods.stepped import ChaoticCloud, DictLog, Weather


class Yard:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.cloud = ChaoticCloud(self.clock, random.Random(1), Weather())
        self.log = DictLog()

    def pod(self, name: str) -> Pod:
        return self.cloud.create(PodSpec(name, "image", "A"))

    def intent(self, name: str, state: IntentState, pod_id: str | None = None) -> None:
        number = len(self.log.intents) + 1
        self.log.intents[name] = PodIntent(name, f"order-{number}", 1, self.clock.now(), "A", state, pod_id)

    def sweep(self, limit: int = 10) -> SweepReport:
        return sweep(self.cloud, self.log, clock=self.clock, abandon_seconds=600.0, limit=limit)

    def names(self) -> list[str]:
        return [pod.name for pod in self.cloud.living()]


@pytest.mark.parametrize("state", [IntentState.UNCERTAIN, IntentState.FAILED, IntentState.RETIRED])
def test_a_pod_that_nobody_wants_is_terminated(state: IntentState) -> None:
    yard = Yard()
    yard.pod("late")
    yard.intent("late", state)
    assert yard.sweep().unwanted
    assert yard.names() == []
    assert yard.log.intents["late"].state is IntentState.RETIRED
    assert yard.sweep() == SweepReport(unknown_pods=())


def test_a_retired_pod_is_terminated_again_until_it_is_gone() -> None:
    yard = Yard()
    pod = yard.pod("mine")
    yard.intent("mine", IntentState.RETIRED, pod.id)
    yard.cloud.weather = Weather(lost_terminate=1.0)
    assert yard.sweep().failures
    assert yard.names() == ["mine"]
    yard.cloud.weather = Weather()
    yard.sweep()
    assert yard.names() == []


def test_the_wanted_pod_stays_and_its_double_goes() -> None:
    yard = Yard()
    first, second = yard.pod("mine"), yard.pod("mine")
    yard.intent("mine", IntentState.CREATED, first.id)
    report = yard.sweep()
    assert [pod.id for pod in report.unwanted] == [second.id]
    assert [pod.id for pod in yard.cloud.living()] == [first.id]


def test_an_attempt_in_progress_is_left_alone_until_it_is_old() -> None:
    yard = Yard()
    yard.pod("young")
    yard.intent("young", IntentState.PENDING)
    assert yard.sweep() == SweepReport(unknown_pods=())
    yard.clock.advance(601.0)
    yard.sweep()
    assert yard.names() == []


def test_a_pod_without_an_intent_is_reported_and_never_touched() -> None:
    yard = Yard()
    yard.pod("foreign")
    for _ in range(5):
        report = yard.sweep()
    assert [pod.name for pod in report.unknown_pods] == ["foreign"]
    assert yard.names() == ["foreign"]


def test_an_unreadable_provider_ends_the_sweep_before_any_harm() -> None:
    yard = Yard()
    yard.pod("late")
    yard.intent("late", IntentState.RETIRED)
    yard.cloud.weather = Weather(unreadable=1.0)
    report = yard.sweep()
    assert report.list_error
    assert report.list_error
    assert yard.names() == ["late"]


def test_one_sweep_terminates_no_more_than_its_limit() -> None:
    yard = Yard()
    for number in range(5):
        yard.pod(f"late-{number}")
        yard.intent(f"late-{number}", IntentState.RETIRED)
    assert len(yard.sweep(limit=2).unwanted) == 5
    assert len(yard.names()) == 3


def test_an_intent_that_changes_under_the_sweep_saves_its_pod() -> None:
    """A launcher adopts the pod between the sweep's read and its write."""
    yard = Yard()
    pod = yard.pod("late")
    yard.intent("late", IntentState.UNCERTAIN)
    adopted = yard.log.intents["late"]

    def adopt() -> None:
        yard.log.intents["late"] = PodIntent(
            adopted.name, adopted.order_id, 1, adopted.recorded_at, "A", IntentState.CREATED, pod.id
        )

    yard.log.before_call = adopt
    assert yard.sweep().failures
    assert yard.names() == ["late"]
