"""The cloud without a server: states, stock, money and fates over virtual time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pod_worker.fake_runpod.cloud.account import Account, Volume
from pod_worker.fake_runpod.cloud.catalogue import load_catalogue
from pod_worker.fake_runpod.cloud.container_commands import StartContainer, StopContainer
from pod_worker.fake_runpod.cloud.faults import FaultKind, FaultRule
from pod_worker.fake_runpod.cloud.pod import ACTIONS, Pod, PodSpec, Status
from pod_worker.fake_runpod.cloud.settings import SimulationSettings
from pod_worker.fake_runpod.cloud.simulator import CloudSimulator
from pod_worker.fake_runpod.errors import ApiError, ApiErrorKind
from pod_worker.fake_runpod.timestamps import DAY, HOUR, SECOND

NOW = 1_795_000_000 * SECOND
GPU = "NVIDIA GeForce RTX 4090"
CATALOGUE = load_catalogue()
RICH = 1e6
SPEC = PodSpec(name="pod", image="img", gpu_ids=(GPU,), ports=("22/tcp", "8888/http"))


def make_world(account: Account | None = None, physics: SimulationSettings | None = None) -> CloudSimulator:
    return CloudSimulator(account or Account(), CATALOGUE, NOW, physics=physics, seed=7)


def create(world: CloudSimulator, **changes: object) -> Pod:
    return world.create(replace(SPEC, env={}, **changes), "v2")  # type: ignore[arg-type]


def run_for(world: CloudSimulator, seconds: float) -> None:
    world.advance(world.now_ns + int(seconds * SECOND))


def test_a_pod_walks_to_running_at_the_exact_instants() -> None:
    world = make_world(physics=SimulationSettings(provision_seconds=2, pull_seconds=8, ready_seconds=1))
    pod = create(world)
    seen = []
    for _ in range(24):
        run_for(world, 0.5)
        seen.append((pod.status, pod.ready))
    changes = [(i * 0.5 + 0.5, s) for i, s in enumerate(seen) if i == 0 or seen[i - 1] != s]
    assert changes == [
        (0.5, (Status.PROVISIONING, False)),
        (2.0, (Status.STARTING, False)),
        (10.0, (Status.RUNNING, False)),
        (11.0, (Status.RUNNING, True)),
    ]


def test_one_long_step_is_the_same_as_many_small_ones() -> None:
    worlds = [make_world(), make_world()]
    pods = [create(world) for world in worlds]
    run_for(worlds[0], 3600)
    for _ in range(36_00):
        run_for(worlds[1], 1)
    assert pods[0] == pods[1]
    owed = [
        world.treasury.pods.lines[pod.id].tally.usage_until(world.now_ns)
        for world, pod in zip(worlds, pods, strict=True)
    ]
    assert owed[0] == owed[1]


def test_actions_are_allowed_exactly_as_the_status_says() -> None:
    for status, allowed in ACTIONS.items():
        for action in ("start", "stop", "restart", "terminate"):
            world = make_world()
            pod = create(world)
            pod.status = status
            if action in allowed:
                world.act(pod, action)
            else:
                with pytest.raises(ApiError) as refused:
                    world.act(pod, action)
                assert refused.value.kind is ApiErrorKind.STATE


def test_stock_comes_back_with_every_end_of_a_pod() -> None:
    world = make_world(Account(spend_limit_usd_per_hour=RICH))
    pods = [create(world, data_center_ids=("US-TX-3",), gpu_count=8) for _ in range(50)]
    with pytest.raises(ApiError, match="no instances"):
        create(world, data_center_ids=("US-TX-3",))
    assert create(world).data_center_id != "US-TX-3"  # unpinned succeeds where pinned fails
    run_for(world, 60)
    world.act(pods[0], "stop")
    world.act(pods[1], "terminate")
    world.fail(pods[2], "broken")
    world.act(pods[2], "terminate")
    for _ in range(24):
        create(world, data_center_ids=("US-TX-3",))
    with pytest.raises(ApiError, match="no instances"):
        create(world, data_center_ids=("US-TX-3",))


def test_a_pod_stopped_on_its_way_up_stays_down() -> None:
    for seconds in (0, 1, 5, 10):
        world = make_world()
        pod = create(world)
        run_for(world, seconds)
        world.act(pod, "stop")
        run_for(world, 3600)
        assert (pod.status, pod.ready) == (Status.EXITED, False)


def test_a_stopped_pod_gives_its_gpus_back_once() -> None:
    world = make_world(Account(spend_limit_usd_per_hour=RICH))
    pods = [create(world, data_center_ids=("US-TX-3",), gpu_count=8) for _ in range(50)]
    world.act(pods[0], "stop")
    world.act(pods[0], "terminate")
    create(world, data_center_ids=("US-TX-3",), gpu_count=8)
    with pytest.raises(ApiError, match="no instances"):
        create(world, data_center_ids=("US-TX-3",))


def test_a_stopped_pod_may_find_its_gpus_taken() -> None:
    world = make_world(Account(spend_limit_usd_per_hour=RICH))
    pod = create(world, gpu_count=8, data_center_ids=("US-TX-3",))
    run_for(world, 60)
    world.act(pod, "stop")
    rest = [create(world, gpu_count=8, data_center_ids=("US-TX-3",)) for _ in range(50)]
    with pytest.raises(ApiError, match="not enough free GPUs"):
        world.act(pod, "start")
    world.act(rest[0], "terminate")
    world.act(pod, "start")
    run_for(world, 10)
    assert (pod.status, pod.gpu_count) == (Status.RUNNING, 8)


def test_a_restarted_pod_gets_new_ports_and_shows_old_ones_in_between() -> None:
    world = make_world()
    pod = create(world)
    run_for(world, 60)
    first = [mapping.public for mapping in pod.mappings]
    world.act(pod, "stop")
    assert [mapping.public for mapping in pod.mappings] == first
    world.act(pod, "start")
    run_for(world, 60)
    assert pod.mappings[0].public != first[0]


def test_a_symmetrical_port_has_one_number_inside_and_outside() -> None:
    world = make_world()
    pod = create(world, ports=("70000/tcp",))
    run_for(world, 60)
    assert pod.mappings[0].private == pod.mappings[0].public


def test_stopping_frees_compute_and_doubles_the_volume_disk() -> None:
    world = make_world()
    pod = create(world, volume_gb=100, disk_gb=50)
    run_for(world, 3600)
    world.act(pod, "stop")
    tally = world.treasury.pods.lines[pod.id].tally
    while_on = tally.usage_until(world.now_ns)
    run_for(world, 3600)
    while_off = tally.usage_until(world.now_ns) - while_on
    assert while_on.compute == 690_000_000_000
    assert while_on.disk == (50 + 100) * 100_000_000_000 // 720
    assert while_off.compute == while_off.millis == 0
    assert abs(while_off.disk - 100 * 200_000_000_000 / 720) < 2


def test_the_contents_start_when_it_runs_and_stop_with_it() -> None:
    world = make_world()
    pod = create(world)
    run_for(world, 9.9)
    assert not world.effects
    run_for(world, 0.1)
    assert list(world.drain_effects()) == [StartContainer(pod.id, 0)]
    world.act(pod, "restart")
    world.act(pod, "stop")
    world.act(pod, "terminate")
    kinds = [(type(effect), effect.life) for effect in world.drain_effects()]
    assert kinds == [(StopContainer, 0), (StartContainer, 1), (StopContainer, 1), (StopContainer, 2)]


def test_an_exit_of_an_older_life_changes_nothing() -> None:
    world = make_world()
    pod = create(world)
    run_for(world, 60)
    world.act(pod, "restart")
    world.record_exit(pod.id, life=0, code=1)
    assert pod.status is Status.RUNNING
    world.record_exit(pod.id, life=1, code=1)
    assert pod.status is Status.EXITED


def test_a_container_can_be_made_to_restart_for_ever_and_bill() -> None:
    world = make_world(physics=SimulationSettings(restart_on_exit=True))
    pod = create(world)
    run_for(world, 60)
    for _ in range(5):
        world.record_exit(pod.id, pod.life, 1)
    assert (pod.status, pod.life) == (Status.RUNNING, 5)


def test_terminate_after_and_stop_after_hold_whatever_happens() -> None:
    world = make_world()
    pod = create(world, stop_after_ns=NOW + HOUR, terminate_after_ns=NOW + 2 * HOUR)
    run_for(world, 60)
    world.act(pod, "stop")
    world.act(pod, "start")
    run_for(world, 3600)
    assert pod.status is Status.EXITED
    run_for(world, 3600)
    assert world.all_pods() == []


def test_an_account_without_an_hour_of_credit_cannot_deploy() -> None:
    world = make_world(Account(balance_usd=0.5))
    with pytest.raises(ApiError) as refused:
        create(world)
    assert refused.value.kind is ApiErrorKind.BALANCE


def test_the_spend_limit_holds() -> None:
    world = make_world(Account(spend_limit_usd_per_hour=1.0))
    create(world)
    with pytest.raises(ApiError, match="spend limit"):
        create(world)


def test_at_zero_balance_volumes_save_pods_and_the_others_are_destroyed() -> None:
    account = Account(balance_usd=14.0, volumes={"v1": Volume("v1", "v", 10, "US-TX-3", "STANDARD")})
    world = make_world(account)
    saved = create(world, network_volume_id="v1", disk_gb=1)
    doomed = create(world, disk_gb=1)
    run_for(world, 9 * 3600)
    assert len(world.all_pods()) == 2
    run_for(world, 2 * 3600)
    assert world.all_pods() == [saved]
    assert saved.status is Status.EXITED
    assert doomed.status is Status.TERMINATED
    assert abs(world.treasury.balance_nano(world.now_ns)) < 1.38e9 * 5 / 60 + 1  # one billing tick late at most


def test_a_network_volume_pins_the_data_center() -> None:
    account = Account(volumes={"v1": Volume("v1", "v", 10, "EU-RO-1", "STANDARD")})
    world = make_world(account)
    assert create(world, network_volume_id="v1").data_center_id == "EU-RO-1"
    with pytest.raises(ApiError, match="none of the data centers"):
        create(world, network_volume_id="v1", data_center_ids=("US-TX-3",))
    with pytest.raises(ApiError, match="SECURE"):
        create(world, network_volume_id="v1", clouds=("COMMUNITY",))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"env": {f"V{i}": "" for i in range(51)}}, "environment variables"),
        ({"ports": tuple(f"{8000 + i}/http" for i in range(11))}, "http ports"),
        ({"ports": ("53/udp",)}, "invalid port"),
        ({"name": "n" * 192}, "191"),
        ({"data_center_ids": ("MARS-1",)}, "unknown data center"),
        ({"gpu_ids": ("AMPERE_16",)}, "unknown GPU type"),
        ({"allowed_cuda": ("12.8",), "min_cuda": "12.1"}, "mutually exclusive"),
        ({"gpu_ids": (), "cpu_id": "cpu3c", "vcpu_count": 3}, "power of two"),
    ],
)
def test_rules_of_a_create(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ApiError, match=words) as refused:
        make_world().create(replace(SPEC, **{"env": {}} | changes), "v2")  # type: ignore[arg-type]
    assert refused.value.kind is ApiErrorKind.RULE


def test_cuda_versions_are_compared_as_numbers() -> None:
    world = make_world()
    assert create(world, min_cuda="12.11").cuda_version == "13.0"
    assert create(world, allowed_cuda=("12.4",)).cuda_version == "12.4"
    with pytest.raises(ApiError, match="no instances"):
        create(world, allowed_cuda=("10.2",))


def test_stale_timers_do_not_pile_up() -> None:
    world = make_world()
    for _ in range(2000):
        world.act(create(world), "terminate")
        run_for(world, 5)
    assert len(world.agenda) < 10


def test_a_month_of_pods_leaves_no_trace_but_their_bills() -> None:
    world = make_world()
    for _ in range(300):
        pods = [create(world) for _ in range(3)]
        run_for(world, 8640)
        for pod in pods:
            world.act(pod, "terminate")
        world.effects.clear()
    assert world.now_ns - NOW == 30 * DAY
    assert (world.all_pods(), len(world.agenda), len(world.treasury.pods.lines)) == ([], 0, 900)


FATES = [
    (FaultKind.STUCK_PROVISIONING, Status.PROVISIONING, False),
    (FaultKind.NEVER_READY, Status.RUNNING, False),
    (FaultKind.BOOT_ERROR, Status.ERROR, False),
    (FaultKind.SPOT_INTERRUPT, Status.EXITED, False),
]


@pytest.mark.parametrize(("kind", "status", "ready"), FATES)
def test_fates(kind: FaultKind, status: Status, ready: bool) -> None:
    world = make_world()
    world.faults.add(FaultRule(kind=kind, seconds=100, notice_seconds=3), world.now_ns)
    pod = create(world)
    run_for(world, 10_000)
    assert (pod.status, pod.ready) == (status, ready)


def test_a_vanished_pod_stops_billing_when_it_vanishes() -> None:
    world = make_world()
    world.faults.add(FaultRule(kind=FaultKind.VANISH, seconds=1800), world.now_ns)
    pod = create(world)
    run_for(world, 10 * 3600)
    assert world.all_pods() == []
    assert world.treasury.pods.lines[pod.id].tally.usage_until(world.now_ns).compute == 345_000_000_000


def test_a_pod_can_come_back_without_gpus() -> None:
    world = make_world()
    world.faults.add(FaultRule(kind=FaultKind.ZERO_GPU), world.now_ns)
    pod = create(world, gpu_count=2)
    run_for(world, 60)
    assert pod.gpu_count == 2
    world.act(pod, "stop")
    world.act(pod, "start")
    run_for(world, 60)
    assert (pod.status, pod.gpu_count, pod.cost_nano) == (Status.RUNNING, 0, 0)


def test_a_spot_pod_gets_its_notice() -> None:
    world = make_world()
    world.faults.add(FaultRule(kind=FaultKind.SPOT_INTERRUPT, seconds=100, notice_seconds=2), world.now_ns)
    pod = create(world)
    run_for(world, 100)
    stop = [effect for effect in world.drain_effects() if isinstance(effect, StopContainer)]
    assert [(effect.reason, effect.notice_seconds) for effect in stop] == [("interrupted", 2)]
    assert pod.status is Status.RUNNING
    run_for(world, 2)
    assert pod.status is Status.EXITED


def test_scarcity_by_place_sends_the_pod_elsewhere() -> None:
    world = make_world()
    for dc in CATALOGUE.data_center_ids[1:]:
        world.faults.add(FaultRule(kind=FaultKind.NO_CAPACITY, gpu=GPU, data_center=dc), world.now_ns)
    assert {create(world).data_center_id for _ in range(20)} == {CATALOGUE.data_center_ids[0]}
    assert create(world, gpu_ids=("NVIDIA L4",)) is not None


def test_rules_count_rest_and_pass_over() -> None:
    world = make_world()
    rule = world.faults.add(FaultRule(kind=FaultKind.NO_CAPACITY, times=2, skip=1), world.now_ns)
    outcomes = []
    for _ in range(5):
        try:
            create(world)
            outcomes.append("made")
        except ApiError:
            outcomes.append("refused")
    assert outcomes == ["made", "refused", "refused", "made", "made"]
    assert rule.struck == 2


def test_rules_match_by_name_and_time() -> None:
    world = make_world()
    world.faults.add(
        FaultRule(kind=FaultKind.BOOT_ERROR, name="bad-*", from_seconds=10, until_seconds=20), world.now_ns
    )
    early, run = create(world, name="bad-1"), []
    run_for(world, 10)
    run = [create(world, name="bad-2"), create(world, name="good")]
    run_for(world, 10)
    late = create(world, name="bad-3")
    run_for(world, 60)
    assert [p.status for p in (early, *run, late)] == ["RUNNING", "ERROR", "RUNNING", "RUNNING"]


def test_a_share_of_creates_can_fail_by_seeded_chance() -> None:
    def outcome() -> list[bool]:
        world = make_world(Account(spend_limit_usd_per_hour=RICH))
        world.faults.add(FaultRule(kind=FaultKind.CREATE_THEN_500, probability=0.3), world.now_ns)
        made = []
        for _ in range(200):
            try:
                create(world)
                made.append(True)
            except ApiError:
                made.append(False)
        assert len(world.all_pods()) == 200  # they all exist and bill
        return made

    first = outcome()
    assert first == outcome()
    assert 30 < first.count(False) < 90
