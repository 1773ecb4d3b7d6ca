"""The same seed gives the same plan, every kind of fault comes early, and no part is struck while it is down."""

from __future__ import annotations

import itertools

import pytest

from chaos.injector import _STRIKES
from chaos.plan import BY_NAME, KINDS, REST_SECONDS, Planned, decode, encode, make_plan
from chaos.workload import orders


def plan(seed: int = 1, seconds: float = 600) -> list[Planned]:
    return make_plan(seed, seconds, pods=4, controls=2, every_seconds=1.0, lease_seconds=6)


def test_a_seed_is_a_plan() -> None:
    assert plan(1) == plan(1)
    assert plan(1) != plan(2)
    assert decode(encode(plan())) == plan()


def test_every_kind_comes_before_any_comes_a_third_time() -> None:
    seen: dict[str, int] = {}
    for planned in plan():
        seen[planned.kind] = seen.get(planned.kind, 0) + 1
        if seen[planned.kind] == 3:
            break
    assert seen.keys() == BY_NAME.keys()


def test_no_target_is_struck_before_it_has_recovered_from_the_fault_before() -> None:
    free_at: dict[tuple[str, int], float] = {}
    for planned in plan():
        kind = BY_NAME[planned.kind]
        place = (kind.target.value, planned.target)
        assert planned.at >= free_at.get(place, 0.0) - 0.02, planned
        free_at[place] = planned.at + planned.seconds + REST_SECONDS[kind.target]


def test_every_kind_can_be_done() -> None:
    assert {kind.name for kind in KINDS} <= _STRIKES.keys()


def test_an_unknown_kind_in_a_plan_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown fault 'meteor'"):
        decode('{"at": 1, "kind": "meteor", "target": 0, "seconds": 0, "size": 0}')


def test_the_work_of_a_seed_is_the_same_and_has_every_shape() -> None:
    first, again = list(itertools.islice(orders(7), 300)), list(itertools.islice(orders(7), 300))
    assert first == again
    assert len({order.id for order in first}) == 300
    assert {"short", "long", "artifacts", "hanging", "crashing", "failing"} <= {order.shape for order in first}
