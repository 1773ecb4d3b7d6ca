"""Ten thousand seeded schedules of lost, late and doubled messages, crashes and blackouts, in virtual time.

Whatever happens, an order ends with exactly the pod that its launch returned or with none, and after it is given
up with none at all. A failing schedule is named by its number: `run_schedule(number)` repeats it.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

import pytest

from pod_worker.core.clock import ManualClock
from pod_worker.core.pod_intent import IntentState
from pod_worker.pods.launch.candidates import Candidate, Cooldowns
from pod_worker.pods.launch.launcher import (
    Launched,
    Launcher,
    LaunchFailed,
    LaunchFailureReason,
    LaunchRequest,
    LaunchTimeouts,
)
from pod_worker.pods.launch.sweep import sweep
from pod_worker.pods.pod import PodSpec
from tests.pods.stepped import ChaoticCloud, DictLog, Died, Weather

SCHEDULES = 10_000
TIMEOUTS = LaunchTimeouts(visibility_timeout_seconds=45.0, poll_seconds=5.0, lookup_timeout_seconds=120.0)
TIMELY_SECONDS = 40.0
"""A request that is carried out and shown within this is found by the look-up, so nothing may be doubled."""


@dataclass
class World:
    rng: random.Random
    clock: ManualClock
    cloud: ChaoticCloud
    log: DictLog
    timely: bool
    deaths: int = 0
    rival_at: int = 0
    rival: Launched | LaunchFailed | None = None

    def launcher(self) -> Launcher:
        numbers = itertools.count(self.rng.randrange(10**6))
        return Launcher(
            self.cloud,
            self.log,
            clock=self.clock,
            sleep=self.clock.advance,
            new_id=lambda: f"{next(numbers):06d}{self.rng.randrange(16**4):04x}",
            cooldowns=Cooldowns(self.clock),
            timeouts=TIMEOUTS,
        )

    def sweep(self) -> None:
        sweep(self.cloud, self.log, clock=self.clock, abandon_seconds=900.0)


def make_world(number: int) -> World:
    rng = random.Random(number)

    def chance(most: float) -> float:
        return rng.random() * most if rng.random() < 0.5 else 0.0

    clock = ManualClock()
    timely = rng.random() < 0.5
    weather = Weather(
        lost_request=chance(0.4),
        lost_reply=chance(0.5),
        server_error_done=chance(0.5),
        server_error_not_done=chance(0.4),
        delayed=chance(0.5),
        longest_delay=TIMELY_SECONDS / 2 if timely else 600.0,
        doubled=0.0 if timely else chance(0.4),
        refused=chance(0.6),
        rate_limited=chance(0.5),
        unreadable=chance(0.6),
        blackout_from=clock.monotonic() + rng.uniform(0, 60),
        blackout_seconds=rng.uniform(0, 400) if rng.random() < 0.2 else 0.0,
        longest_lag=rng.uniform(0, TIMELY_SECONDS / 2),
        lost_terminate=chance(0.6),
    )
    world = World(rng, clock, ChaoticCloud(clock, rng, weather), DictLog(), timely)
    kind = rng.random()
    if kind < 0.4:
        plan_deaths(world, {rng.randrange(1, 40) for _ in range(rng.randrange(1, 4))})
    elif kind < 0.6:
        world.rival_at = rng.randrange(1, 20)
    return world


def plan_deaths(world: World, at: set[int]) -> None:
    calls = itertools.count(1)

    def maybe_die() -> None:
        if next(calls) in at:
            world.deaths += 1
            raise Died

    world.cloud.before_call = world.log.before_call = maybe_die


def plan_rival(world: World, request: LaunchRequest) -> None:
    """In the middle of the launch another machine launches the same order, from beginning to end."""
    calls = itertools.count(1)

    def maybe_rival() -> None:
        if next(calls) == world.rival_at:
            world.rival = world.launcher().launch(request)

    world.cloud.before_call = world.log.before_call = maybe_rival


def launch_until_alive(world: World, request: LaunchRequest) -> Launched | LaunchFailed:
    """A supervisor restarts the launching process and asks again, minutes later at times."""
    while True:
        try:
            return world.launcher().launch(request)
        except Died:
            world.clock.advance(world.rng.choice([0.0, 5.0, 400.0, 2000.0]))
            if world.rng.random() < 0.5:
                sweep_through_death(world)


def sweep_through_death(world: World) -> None:
    try:
        world.sweep()
    except Died:
        pass


def run_schedule(number: int) -> World:
    world = make_world(number)
    candidates = tuple(Candidate(gpu) for gpu in ("A", "B", "C")[: world.rng.randrange(1, 4)])
    request = LaunchRequest(f"order-{number}", PodSpec("worker", "image", "A"), candidates)
    if world.rival_at:
        plan_rival(world, request)
    result = launch_until_alive(world, request)
    world.cloud.before_call = world.log.before_call = lambda: None
    check_return(number, world, result)
    if isinstance(world.rival, Launched):
        result = check_rival(number, world.rival, result)
    world.cloud.settle()
    kept = keep_or_retry(world, request, result)
    for _ in range(6):
        world.sweep()
        world.clock.advance(120.0)
    check_end(number, world, kept)
    world.cloud.weather = Weather(lost_terminate=0.4)
    world.launcher().retire(request.id)
    for _ in range(20):
        world.clock.advance(60.0)
        world.sweep()
    assert world.cloud.living() == (), f"schedule {number}: leaked after the order was given up"
    return world


def check_rival(number: int, rival: Launched, result: Launched | LaunchFailed) -> Launched:
    """Two launchers of one order may both succeed, but only with the same pod."""
    if isinstance(result, Launched):
        assert result.pod.id == rival.pod.id, f"schedule {number}: {result.pod.id} and {rival.pod.id}"
    return rival


def check_return(number: int, world: World, result: Launched | LaunchFailed) -> None:
    """In timely weather no sweep is needed: at the moment of return nothing but the returned pod is alive, except
    a pod whose terminate was lost and whose intent is retired already."""
    if not world.timely:
        return
    outcomes = (result, world.rival)
    if any(isinstance(got, LaunchFailed) and got.reason is LaunchFailureReason.UNCLEAR for got in outcomes):
        return
    wanted = {got.pod.id for got in outcomes if isinstance(got, Launched)}
    retired = {i.name for i in world.log.intents.values() if i.state is IntentState.RETIRED}
    extra = [pod for pod in world.cloud.living() if pod.id not in wanted and pod.name not in retired]
    assert not extra, f"schedule {number}: {extra} alive besides {result}"


def keep_or_retry(
    world: World, request: LaunchRequest, result: Launched | LaunchFailed
) -> Launched | LaunchFailed:
    """Half of the callers ask again in fair weather; asking again must give the same pod."""
    if world.rng.random() < 0.5:
        return result
    again = world.launcher().launch(request)
    if isinstance(result, Launched) and result.pod in world.cloud.living():
        assert isinstance(again, Launched)
        assert again.pod.id == result.pod.id
    return again


def check_end(number: int, world: World, kept: Launched | LaunchFailed) -> None:
    alive = [pod.id for pod in world.cloud.living()]
    wanted = [kept.pod.id] if isinstance(kept, Launched) else []
    assert alive == wanted, f"schedule {number}: alive {alive}, wanted {wanted}"
    created = [i.pod_id for i in world.log.intents.values() if i.state is IntentState.CREATED]
    assert created == wanted, f"schedule {number}: the log says {created}"


@pytest.mark.parametrize("part", range(10))
def test_no_schedule_leaks_or_doubles_a_pod(part: int) -> None:
    size = SCHEDULES // 10
    for number in range(part * size, (part + 1) * size):
        run_schedule(number)


def test_the_schedules_do_reach_the_hard_cases() -> None:
    """A property test that never meets its faults proves nothing."""
    worlds = [run_schedule(number) for number in range(1000)]
    assert sum(world.deaths > 0 for world in worlds) > 100
    assert sum(len(world.log.intents) > 1 for world in worlds) > 300
    states = [intent.state for world in worlds for intent in world.log.intents.values()]
    assert sum(state is IntentState.RETIRED for state in states) > 500
    assert sum(len(world.cloud.pods) > 1 for world in worlds) > 50
    assert sum(isinstance(world.rival, Launched) for world in worlds) > 50
