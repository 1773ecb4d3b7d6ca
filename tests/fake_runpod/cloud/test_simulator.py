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


def make_simulator(account: Account | None = None, settings: SimulationSettings | None = None) -> CloudSimulator:
    return CloudSimulator(account or Account(), CATALOGUE, NOW, settings=settings, seed=7)


def create(simulator: CloudSimulator, **changes: object) -> Pod:
    return simulator.create(replace(SPEC, env={}, **changes), "v2")  # type: ignore[arg-type]


def run_for(simulator: CloudSimulator, seconds: float) -> None:
    simulator.advance(simulator.now_ns + int(seconds * SECOND))


def test_a_pod_walks_to_running_at_the_exact_instants() -> None:
    simulator = make_simulator(settings=SimulationSettings(provision_seconds=2, pull_seconds=8, ready_seconds=1))
    pod = create(simulator)
    seen = []
    for _ in range(24):
        run_for(simulator, 0.5)
        seen.append((pod.status, pod.ready))
    changes = [(i * 0.5 + 0.5, s) for i, s in enumerate(seen) if i == 0 or seen[i - 1] != s]
    assert changes == [
        (0.5, (Status.PROVISIONING, False)),
        (2.0, (Status.STARTING, False)),
        (10.0, (Status.RUNNING, False)),
        (11.0, (Status.RUNNING, True)),
    ]


def test_one_long_step_is_the_same_as_many_small_ones() -> None:
    simulators = [make_simulator(), make_simulator()]
    pods = [create(simulator) for simulator in simulators]
    run_for(simulators[0], 3600)
    for _ in range(36_00):
        run_for(simulators[1], 1)
    assert pods[0] == pods[1]
    amounts_due = [
        simulator.billing.pods.entries[pod.id].usage.usage_until(simulator.now_ns)
        for simulator, pod in zip(simulators, pods, strict=True)
    ]
    assert amounts_due[0] == amounts_due[1]


def test_actions_are_allowed_exactly_as_the_status_says() -> None:
    for status, allowed in ACTIONS.items():
        for action in ("start", "stop", "restart", "terminate"):
            simulator = make_simulator()
            pod = create(simulator)
            pod.status = status
            if action in allowed:
                simulator.act(pod, action)
            else:
                with pytest.raises(ApiError) as rejection:
                    simulator.act(pod, action)
                assert rejection.value.kind is ApiErrorKind.STATE


def test_stock_comes_back_with_every_end_of_a_pod() -> None:
    simulator = make_simulator(Account(spend_limit_usd_per_hour=RICH))
    pods = [create(simulator, data_center_ids=("US-TX-3",), gpu_count=8) for _ in range(50)]
    with pytest.raises(ApiError, match="no instances"):
        create(simulator, data_center_ids=("US-TX-3",))
    assert create(simulator).data_center_id != "US-TX-3"  # unpinned succeeds where pinned fails
    run_for(simulator, 60)
    simulator.act(pods[0], "stop")
    simulator.act(pods[1], "terminate")
    simulator.fail(pods[2], "broken")
    simulator.act(pods[2], "terminate")
    for _ in range(24):
        create(simulator, data_center_ids=("US-TX-3",))
    with pytest.raises(ApiError, match="no instances"):
        create(simulator, data_center_ids=("US-TX-3",))


def test_a_pod_stopped_on_its_way_up_stays_down() -> None:
    for seconds in (0, 1, 5, 10):
        simulator = make_simulator()
        pod = create(simulator)
        run_for(simulator, seconds)
        simulator.act(pod, "stop")
        run_for(simulator, 3600)
        assert (pod.status, pod.ready) == (Status.EXITED, False)


def test_a_stopped_pod_gives_its_gpus_back_once() -> None:
    simulator = make_simulator(Account(spend_limit_usd_per_hour=RICH))
    pods = [create(simulator, data_center_ids=("US-TX-3",), gpu_count=8) for _ in range(50)]
    simulator.act(pods[0], "stop")
    simulator.act(pods[0], "terminate")
    create(simulator, data_center_ids=("US-TX-3",), gpu_count=8)
    with pytest.raises(ApiError, match="no instances"):
        create(simulator, data_center_ids=("US-TX-3",))


def test_a_stopped_pod_may_find_its_gpus_taken() -> None:
    simulator = make_simulator(Account(spend_limit_usd_per_hour=RICH))
    pod = create(simulator, gpu_count=8, data_center_ids=("US-TX-3",))
    run_for(simulator, 60)
    simulator.act(pod, "stop")
    rest = [create(simulator, gpu_count=8, data_center_ids=("US-TX-3",)) for _ in range(50)]
    with pytest.raises(ApiError, match="not enough free GPUs"):
        simulator.act(pod, "start")
    simulator.act(rest[0], "terminate")
    simulator.act(pod, "start")
    run_for(simulator, 10)
    assert (pod.status, pod.gpu_count) == (Status.RUNNING, 8)


def test_a_restarted_pod_gets_new_ports_and_shows_old_ones_in_between() -> None:
    simulator = make_simulator()
    pod = create(simulator)
    run_for(simulator, 60)
    first = [mapping.public for mapping in pod.mappings]
    simulator.act(pod, "stop")
    assert [mapping.public for mapping in pod.mappings] == first
    simulator.act(pod, "start")
    run_for(simulator, 60)
    assert pod.mappings[0].public != first[0]


def test_a_symmetrical_port_has_one_number_inside_and_outside() -> None:
    simulator = make_simulator()
    pod = create(simulator, ports=("70000/tcp",))
    run_for(simulator, 60)
    assert pod.mappings[0].private == pod.mappings[0].public


def test_stopping_frees_compute_and_doubles_the_volume_disk() -> None:
    simulator = make_simulator()
    pod = create(simulator, volume_gb=100, disk_gb=50)
    run_for(simulator, 3600)
    simulator.act(pod, "stop")
    usage = simulator.billing.pods.entries[pod.id].usage
    while_on = usage.usage_until(simulator.now_ns)
    run_for(simulator, 3600)
    while_off = usage.usage_until(simulator.now_ns) - while_on
    assert while_on.compute == 690_000_000_000
    assert while_on.disk == (50 + 100) * 100_000_000_000 // 720
    assert while_off.compute == while_off.millis == 0
    assert abs(while_off.disk - 100 * 200_000_000_000 / 720) < 2


def test_the_contents_start_when_it_runs_and_stop_with_it() -> None:
    simulator = make_simulator()
    pod = create(simulator)
    run_for(simulator, 9.9)
    assert not simulator.commands
    run_for(simulator, 0.1)
    assert list(simulator.drain_commands()) == [StartContainer(pod.id, 0)]
    simulator.act(pod, "restart")
    simulator.act(pod, "stop")
    simulator.act(pod, "terminate")
    kinds = [(type(command), command.generation) for command in simulator.drain_commands()]
    assert kinds == [(StopContainer, 0), (StartContainer, 1), (StopContainer, 1), (StopContainer, 2)]


def test_an_exit_of_an_older_life_changes_nothing() -> None:
    simulator = make_simulator()
    pod = create(simulator)
    run_for(simulator, 60)
    simulator.act(pod, "restart")
    simulator.record_exit(pod.id, generation=0, code=1)
    assert pod.status is Status.RUNNING
    simulator.record_exit(pod.id, generation=1, code=1)
    assert pod.status is Status.EXITED


def test_a_container_can_be_made_to_restart_for_ever_and_bill() -> None:
    simulator = make_simulator(settings=SimulationSettings(restart_on_exit=True))
    pod = create(simulator)
    run_for(simulator, 60)
    for _ in range(5):
        simulator.record_exit(pod.id, pod.generation, 1)
    assert (pod.status, pod.generation) == (Status.RUNNING, 5)


def test_terminate_after_and_stop_after_hold_whatever_happens() -> None:
    simulator = make_simulator()
    pod = create(simulator, stop_after_ns=NOW + HOUR, terminate_after_ns=NOW + 2 * HOUR)
    run_for(simulator, 60)
    simulator.act(pod, "stop")
    simulator.act(pod, "start")
    run_for(simulator, 3600)
    assert pod.status is Status.EXITED
    run_for(simulator, 3600)
    assert simulator.all_pods() == []


def test_an_account_without_an_hour_of_credit_cannot_deploy() -> None:
    simulator = make_simulator(Account(balance_usd=0.5))
    with pytest.raises(ApiError) as rejection:
        create(simulator)
    assert rejection.value.kind is ApiErrorKind.BALANCE


def test_the_spend_limit_holds() -> None:
    simulator = make_simulator(Account(spend_limit_usd_per_hour=1.0))
    create(simulator)
    with pytest.raises(ApiError, match="spend limit"):
        create(simulator)


def test_at_zero_balance_volumes_save_pods_and_the_others_are_destroyed() -> None:
    account = Account(balance_usd=14.0, volumes={"v1": Volume("v1", "v", 10, "US-TX-3", "STANDARD")})
    simulator = make_simulator(account)
    saved = create(simulator, network_volume_id="v1", disk_gb=1)
    doomed = create(simulator, disk_gb=1)
    run_for(simulator, 9 * 3600)
    assert len(simulator.all_pods()) == 2
    run_for(simulator, 2 * 3600)
    assert simulator.all_pods() == [saved]
    assert saved.status is Status.EXITED
    assert doomed.status is Status.TERMINATED
    assert (
        abs(simulator.billing.balance_nano(simulator.now_ns)) < 1.38e9 * 5 / 60 + 1
    )  # one billing tick late at most


def test_a_network_volume_pins_the_data_center() -> None:
    account = Account(volumes={"v1": Volume("v1", "v", 10, "EU-RO-1", "STANDARD")})
    simulator = make_simulator(account)
    assert create(simulator, network_volume_id="v1").data_center_id == "EU-RO-1"
    with pytest.raises(ApiError, match="none of the requested data centers"):
        create(simulator, network_volume_id="v1", data_center_ids=("US-TX-3",))
    with pytest.raises(ApiError, match="SECURE"):
        create(simulator, network_volume_id="v1", clouds=("COMMUNITY",))


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
    with pytest.raises(ApiError, match=words) as rejection:
        make_simulator().create(replace(SPEC, **{"env": {}} | changes), "v2")  # type: ignore[arg-type]
    assert rejection.value.kind is ApiErrorKind.RULE


def test_cuda_versions_are_compared_as_numbers() -> None:
    simulator = make_simulator()
    assert create(simulator, min_cuda="12.11").cuda_version == "13.0"
    assert create(simulator, allowed_cuda=("12.4",)).cuda_version == "12.4"
    with pytest.raises(ApiError, match="no instances"):
        create(simulator, allowed_cuda=("10.2",))


def test_stale_timers_do_not_pile_up() -> None:
    simulator = make_simulator()
    for _ in range(2000):
        simulator.act(create(simulator), "terminate")
        run_for(simulator, 5)
    assert len(simulator.timers) < 10


def test_a_month_of_pods_leaves_no_trace_but_their_bills() -> None:
    simulator = make_simulator()
    for _ in range(300):
        pods = [create(simulator) for _ in range(3)]
        run_for(simulator, 8640)
        for pod in pods:
            simulator.act(pod, "terminate")
        simulator.commands.clear()
    assert simulator.now_ns - NOW == 30 * DAY
    assert (simulator.all_pods(), len(simulator.timers), len(simulator.billing.pods.entries)) == ([], 0, 900)


FATES = [
    (FaultKind.STUCK_PROVISIONING, Status.PROVISIONING, False),
    (FaultKind.NEVER_READY, Status.RUNNING, False),
    (FaultKind.BOOT_ERROR, Status.ERROR, False),
    (FaultKind.SPOT_INTERRUPT, Status.EXITED, False),
]


@pytest.mark.parametrize(("kind", "status", "ready"), FATES)
def test_fates(kind: FaultKind, status: Status, ready: bool) -> None:
    simulator = make_simulator()
    simulator.faults.add(FaultRule(kind=kind, seconds=100, notice_seconds=3), simulator.now_ns)
    pod = create(simulator)
    run_for(simulator, 10_000)
    assert (pod.status, pod.ready) == (status, ready)


def test_a_vanished_pod_stops_billing_when_it_vanishes() -> None:
    simulator = make_simulator()
    simulator.faults.add(FaultRule(kind=FaultKind.VANISH, seconds=1800), simulator.now_ns)
    pod = create(simulator)
    run_for(simulator, 10 * 3600)
    assert simulator.all_pods() == []
    assert simulator.billing.pods.entries[pod.id].usage.usage_until(simulator.now_ns).compute == 345_000_000_000


def test_a_pod_can_come_back_without_gpus() -> None:
    simulator = make_simulator()
    simulator.faults.add(FaultRule(kind=FaultKind.ZERO_GPU), simulator.now_ns)
    pod = create(simulator, gpu_count=2)
    run_for(simulator, 60)
    assert pod.gpu_count == 2
    simulator.act(pod, "stop")
    simulator.act(pod, "start")
    run_for(simulator, 60)
    assert (pod.status, pod.gpu_count, pod.cost_nano) == (Status.RUNNING, 0, 0)


def test_a_spot_pod_gets_its_notice() -> None:
    simulator = make_simulator()
    simulator.faults.add(FaultRule(kind=FaultKind.SPOT_INTERRUPT, seconds=100, notice_seconds=2), simulator.now_ns)
    pod = create(simulator)
    run_for(simulator, 100)
    stop = [command for command in simulator.drain_commands() if isinstance(command, StopContainer)]
    assert [(command.reason, command.notice_seconds) for command in stop] == [("interrupted", 2)]
    assert pod.status is Status.RUNNING
    run_for(simulator, 2)
    assert pod.status is Status.EXITED


def test_scarcity_by_place_sends_the_pod_elsewhere() -> None:
    simulator = make_simulator()
    for dc in CATALOGUE.data_center_ids[1:]:
        simulator.faults.add(FaultRule(kind=FaultKind.NO_CAPACITY, gpu=GPU, data_center=dc), simulator.now_ns)
    assert {create(simulator).data_center_id for _ in range(20)} == {CATALOGUE.data_center_ids[0]}
    assert create(simulator, gpu_ids=("NVIDIA L4",)) is not None


def test_rules_count_rest_and_pass_over() -> None:
    simulator = make_simulator()
    rule = simulator.faults.add(FaultRule(kind=FaultKind.NO_CAPACITY, times=2, skip=1), simulator.now_ns)
    outcomes = []
    for _ in range(5):
        try:
            create(simulator)
            outcomes.append("made")
        except ApiError:
            outcomes.append("refused")
    assert outcomes == ["made", "refused", "refused", "made", "made"]
    assert rule.triggered == 2


def test_rules_match_by_name_and_time() -> None:
    simulator = make_simulator()
    simulator.faults.add(
        FaultRule(kind=FaultKind.BOOT_ERROR, name="bad-*", from_seconds=10, until_seconds=20), simulator.now_ns
    )
    early, run = create(simulator, name="bad-1"), []
    run_for(simulator, 10)
    run = [create(simulator, name="bad-2"), create(simulator, name="good")]
    run_for(simulator, 10)
    late = create(simulator, name="bad-3")
    run_for(simulator, 60)
    assert [p.status for p in (early, *run, late)] == ["RUNNING", "ERROR", "RUNNING", "RUNNING"]


def test_a_share_of_creates_can_fail_by_seeded_chance() -> None:
    def outcome() -> list[bool]:
        simulator = make_simulator(Account(spend_limit_usd_per_hour=RICH))
        simulator.faults.add(FaultRule(kind=FaultKind.CREATE_THEN_500, probability=0.3), simulator.now_ns)
        made = []
        for _ in range(200):
            try:
                create(simulator)
                made.append(True)
            except ApiError:
                made.append(False)
        assert len(simulator.all_pods()) == 200  # they all exist and bill
        return made

    first = outcome()
    assert first == outcome()
    assert 30 < first.count(False) < 90
