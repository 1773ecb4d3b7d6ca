"""The launcher's decisions one by one: what each refusal leads to, and what it never does."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from pod_worker.core.clock import ManualClock
from pod_worker.core.pod_intent import IntentState, PodIntent
from pod_worker.pods.errors import (
    ApiRetiredError,
    ForbiddenError,
    InsufficientBalanceError,
    InvalidRequestError,
    NoCapacityError,
    ProviderError,
    RateLimitedError,
    RequestRejectedError,
    ServerError,
    UnauthorizedError,
    UnreachableError,
)
from pod_worker.pods.launch.candidates import Candidate, Cooldowns
from pod_worker.pods.launch.launcher import Launched, Launcher, LaunchFailed, LaunchFailureReason, LaunchRequest
from pod_worker.pods.pod import Cloud, Pod, PodSpec
from tests.pods.stepped import ChaoticCloud, DictLog, Weather

SPEC = PodSpec("worker", "image", "A")


class ScriptedCloud(ChaoticCloud):
    """Fair weather, except that the create calls fail as scripted; None lets one through."""

    script: list[ProviderError | None]
    made: list[PodSpec]

    def create(self, spec: PodSpec) -> Pod:
        self.made.append(spec)
        failure = self.script.pop(0) if self.script else None
        if failure is not None:
            raise failure
        return super().create(spec)


class Bench:
    def __init__(self, *script: ProviderError | None) -> None:
        self.clock = ManualClock()
        self.cloud = ScriptedCloud(self.clock, random.Random(1), Weather())
        self.cloud.script, self.cloud.made = list(script), []
        self.log = DictLog()
        self.cooldowns = Cooldowns(self.clock)
        numbers = itertools.count()
        self.launcher = Launcher(
            self.cloud,
            self.log,
            clock=self.clock,
            sleep=self.clock.advance,
            new_id=lambda: f"{next(numbers):010d}",
            cooldowns=self.cooldowns,
        )

    def launch(self, *gpus: str, ceiling: float | None = None) -> Launched | LaunchFailed:
        request = LaunchRequest("order", SPEC, tuple(Candidate(gpu) for gpu in gpus or ("A", "B")), ceiling)
        return self.launcher.launch(request)

    def states(self) -> list[IntentState]:
        return [intent.state for intent in self.log.of_order("order")]


def test_the_first_candidate_that_works_is_taken() -> None:
    bench = Bench()
    result = bench.launch()
    assert isinstance(result, Launched)
    assert result.pod.gpu_id == "A"
    assert bench.states() == [IntentState.CREATED]
    assert bench.log.of_order("order")[0].pod_id == result.pod.id


def test_the_intent_is_stored_before_the_provider_hears_of_the_pod() -> None:
    bench = Bench()
    seen: list[list[IntentState]] = []
    bench.cloud.before_call = lambda: seen.append(bench.states())
    bench.launch("A")
    assert seen[0] == [IntentState.PENDING]


def test_no_intent_means_no_pod() -> None:
    bench = Bench()

    def refuse(intent: PodIntent) -> None:
        raise ConnectionError("no database")

    bench.log.record = refuse  # type: ignore[method-assign]
    with pytest.raises(ConnectionError):
        bench.launch()
    assert bench.cloud.made == []


def test_every_attempt_has_its_own_name_with_the_orders_prefix() -> None:
    bench = Bench(NoCapacityError("none"), NoCapacityError("none"))
    bench.launch("A", "B", "C")
    names = [spec.name for spec in bench.cloud.made]
    assert len(set(names)) == 3
    assert all(name.startswith("worker-") for name in names)


@pytest.mark.parametrize(
    "refusal", [NoCapacityError("no machines"), ForbiddenError("no"), RequestRejectedError("rule")]
)
def test_a_refusal_of_the_place_leads_to_the_next_one_and_a_cool_down(refusal: ProviderError) -> None:
    bench = Bench(refusal)
    result = bench.launch()
    assert isinstance(result, Launched)
    assert result.pod.gpu_id == "B"
    assert [failed.candidate.gpu_id for failed in result.failed_candidates] == ["A"]
    assert bench.cooldowns.seconds_left(Candidate("A")) > 0


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        (InvalidRequestError("bad field"), LaunchFailureReason.INVALID),
        (InsufficientBalanceError("no credit"), LaunchFailureReason.STOPPED),
        (UnauthorizedError("bad key"), LaunchFailureReason.STOPPED),
        (ApiRetiredError("410"), LaunchFailureReason.STOPPED),
    ],
)
def test_a_refusal_of_the_request_or_account_tries_nothing_else(
    refusal: ProviderError, reason: LaunchFailureReason
) -> None:
    bench = Bench(refusal)
    result = bench.launch()
    assert isinstance(result, LaunchFailed)
    assert result.reason is reason
    assert str(refusal) in result.detail
    assert len(bench.cloud.made) == 1


def test_no_capacity_anywhere_is_a_value() -> None:
    result = Bench(NoCapacityError("full"), NoCapacityError("full")).launch()
    assert isinstance(result, LaunchFailed)
    assert result.reason is LaunchFailureReason.NO_CAPACITY
    assert len(result.failed_candidates) == 2


def test_a_rate_limit_is_waited_out_on_the_same_candidate() -> None:
    bench = Bench(RateLimitedError("slow", wait_seconds=17.0))
    start = bench.clock.monotonic()
    result = bench.launch()
    assert isinstance(result, Launched)
    assert result.pod.gpu_id == "A"
    assert bench.clock.monotonic() - start == 17.0


def test_a_create_that_was_never_sent_is_repeated_without_a_look() -> None:
    bench = Bench(UnreachableError("connection refused", sent=False))
    calls = bench.cloud.calls
    result = bench.launch()
    assert isinstance(result, Launched)
    assert bench.cloud.calls == calls + 1, "one create, no listing"


def create_then_fail(bench: Bench) -> Callable[[PodSpec], Pod]:
    make = super(ScriptedCloud, bench.cloud).create

    def create(spec: PodSpec) -> Pod:
        make(spec)
        raise ServerError("HTTP 500", status=500)

    return create


def test_created_then_500_is_found_by_name_and_one_pod_bills() -> None:
    bench = Bench()
    bench.cloud.create = create_then_fail(bench)  # type: ignore[method-assign,assignment]
    result = bench.launch()
    assert isinstance(result, Launched)
    assert [pod.id for pod in bench.cloud.living()] == [result.pod.id]
    assert bench.cloud.creates_sent == 1


def test_an_unreadable_provider_after_an_unclear_create_stops_the_launch() -> None:
    bench = Bench(ServerError("HTTP 502"))
    bench.cloud.weather = Weather(unreadable=1.0)
    result = bench.launch()
    assert isinstance(result, LaunchFailed)
    assert result.reason is LaunchFailureReason.UNCLEAR
    assert len(bench.cloud.made) == 1
    assert bench.states() == [IntentState.UNCERTAIN]


def test_launching_an_order_again_gives_the_same_pod() -> None:
    bench = Bench()
    first, second = bench.launch(), bench.launch()
    assert isinstance(first, Launched)
    assert isinstance(second, Launched)
    assert first.pod.id == second.pod.id
    assert bench.cloud.creates_sent == 1


def test_an_unreadable_provider_never_turns_a_created_pod_into_two() -> None:
    bench = Bench()
    bench.launch()
    bench.cloud.weather = Weather(unreadable=1.0)
    again = bench.launch()
    assert isinstance(again, LaunchFailed)
    assert again.reason is LaunchFailureReason.UNCLEAR
    assert bench.cloud.creates_sent == 1


def test_a_vanished_pod_is_replaced() -> None:
    bench = Bench()
    first = bench.launch()
    assert isinstance(first, Launched)
    bench.cloud.vanish(first.pod.id)
    second = bench.launch()
    assert isinstance(second, Launched)
    assert second.pod.id != first.pod.id
    assert bench.states() == [IntentState.RETIRED, IntentState.CREATED]


def test_a_live_attempt_of_another_launcher_stops_this_one() -> None:
    bench = Bench()
    stranger = PodIntent("worker-other", "order", 1, bench.clock.now(), "A")
    calls = itertools.count()

    def appears() -> None:
        if next(calls) == 1:  # after the look at earlier intents, before the first attempt
            bench.log.intents[stranger.name] = stranger

    bench.log.before_call = appears
    result = bench.launch()
    assert isinstance(result, LaunchFailed)
    assert result.reason is LaunchFailureReason.TAKEN
    assert bench.cloud.made == []


def test_a_pod_dearer_than_the_ceiling_is_terminated_and_the_next_tried() -> None:
    bench = Bench()
    result = bench.launch("A", ceiling=0.4)
    assert isinstance(result, LaunchFailed)
    assert "over the ceiling" in result.detail
    assert bench.cloud.living() == ()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (replace(SPEC, env={f"V{i}": "x" for i in range(51)}), "limit is 50"),
        (
            replace(SPEC, env={"API_TOKEN": "hunter2000"}, start_command=("run", "--token", "hunter2000")),
            "$API_TOKEN",
        ),
        (replace(SPEC, env={"A-B": "x"}), "not a usable"),
        (replace(SPEC, env={"A": "x\0"}), "NUL"),
        (replace(SPEC, env={"A": "x" * 140_000}), "bytes"),
        (replace(SPEC, image=""), "neither an image"),
        (replace(SPEC, ports=("22/udp",)), "no UDP"),
        (replace(SPEC, ports=tuple(f"{8000 + i}/http" for i in range(11))), "HTTP ports"),
        (replace(SPEC, cloud=Cloud.COMMUNITY, volume_id="v"), "Secure Cloud only"),
        (replace(SPEC, pod_volume_gb=5), "floor is 10"),
    ],
)
def test_a_bad_request_is_refused_before_anything_is_sent_or_stored(spec: PodSpec, message: str) -> None:
    bench = Bench()
    result = bench.launcher.launch(LaunchRequest("order", spec, (Candidate("A"),)))
    assert isinstance(result, LaunchFailed)
    assert result.reason is LaunchFailureReason.INVALID
    assert message in result.detail
    assert "hunter2000" not in result.detail
    assert bench.log.intents == {}


def test_env_values_stay_out_of_reprs() -> None:
    assert "hunter2" not in repr(replace(SPEC, env={"TOKEN": "hunter2"}))


def test_giving_up_an_order_terminates_its_pod_for_good() -> None:
    bench = Bench()
    bench.launch()
    bench.launcher.retire("order")
    assert bench.cloud.living() == ()
    assert bench.states() == [IntentState.RETIRED]
