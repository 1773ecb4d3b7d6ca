"""The classic client from spawn to terminate: fake RunPod over HTTP, a real sshd as the pod's, a real bash."""

from __future__ import annotations

import asyncio
import getpass
import itertools
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pod_worker.pods.launch.candidates import Cooldowns
from pod_worker.pods.launch.launcher import Launcher
from pod_worker.pods.launch.sqlite_intents import IntentFile
from pod_worker.pods.launch_requests import NotAvailableError
from pod_worker.pods.pod import Pod, SshAddress
from pod_worker.pods.provider import Known, ReadResult
from pod_worker.pods.runpod.connect import connect
from pod_worker.pods.runpod.v2 import RunpodV2
from pod_worker.pods.runpod_client import (
    CreatedPod,
    PodNotReadyError,
    create_pod_and_wait,
    find_gpu_type,
    get_network_volumes,
    get_runpod_status,
    spawn_runpod_gpu,
    terminate_runpod_gpu,
)
from pod_worker.pods.runpod_settings import RunpodSettings
from pod_worker.pods.ssh.bootstrap_scripts import BootstrapPlan
from pod_worker.pods.ssh.host_keys import PinFolder
from pod_worker.pods.worker_client import PodTimeouts, RunpodClient, SpawnError
from tests.pods.cloud import CENTER, GPU, OTHER_GPU, Cloud
from tests.pods.sshd import Sshd, make_key

INIT = "echo init ran\n"
WORKER = 'echo "worker $* token ${TOKEN:-none}"\nexec -a pod_worker-worker sleep 300\n'


@dataclass
class LocalPods:
    """The fake's pods answer SSH as root at an address of its choosing; here as the user that runs the tests."""

    inner: RunpodV2

    def get(self, pod_id: str) -> ReadResult[Pod]:
        read = self.inner.get(pod_id)
        if isinstance(read, Known) and read.value.ssh is not None:
            ssh = replace(read.value.ssh, username=getpass.getuser())
            return Known(replace(read.value, ssh=ssh))
        return read

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)


@dataclass
class Shop:
    client: RunpodClient
    cloud: Cloud
    settings: RunpodSettings
    root: Path
    log: IntentFile

    def truth_env(self, pod_id: str) -> dict[str, str]:
        read = self.cloud.provider("v2").get(pod_id)
        assert isinstance(read, Known)
        return dict(read.value.env)


def make_shop(cloud: Cloud, sshd: Sshd, root: Path, **changes: object) -> Shop:
    settings = replace(
        RunpodSettings(
            api_key=cloud.api_key,
            root=cloud.url,
            ssh_public_key=sshd.public_key.strip(),
            login=sshd.login,
            require_gpu=False,
            worker_env={"MONGODB_URL": "mongodb://u:p@h/db", "CONTROL_PLANE_TOKEN": "tok"},
        ),
        **changes,  # type: ignore[arg-type]
    )
    provider = LocalPods(cloud.provider(settings.api))  # type: ignore[arg-type]
    log = IntentFile(root / "intents.db")
    numbers = itertools.count()
    launcher = Launcher(
        provider,  # type: ignore[arg-type]
        log,
        clock=cloud.clock,
        sleep=cloud.sleep,
        new_id=lambda: f"{next(numbers):010d}",
        cooldowns=Cooldowns(cloud.clock),
    )
    client = RunpodClient(
        settings,
        provider=provider,  # type: ignore[arg-type]
        launcher=launcher,
        log=log,
        pins=PinFolder(root / "pins"),
        clock=cloud.clock,
        sleep=cloud.sleep,
        bootstrap=make_pod_folder(root),
        timeouts=PodTimeouts(boot=600.0, ssh=6.0),
    )
    return Shop(client, cloud, settings, root, log)


def make_pod_folder(root: Path) -> BootstrapPlan:
    code = root / "code"
    (code / "scripts").mkdir(parents=True)
    (root / "volume").mkdir()
    (code / "pyproject.toml").write_text("")
    (code / "scripts" / "init_runpod.sh").write_text(INIT)
    (code / "scripts" / "start_worker.sh").write_text(WORKER)
    (root / "environ").write_bytes(b"TOKEN=from-the-pod\0")
    return BootstrapPlan(
        mount_path=str(root / "volume"),
        code_dir=str(code),
        min_free_gb=0.001,
        environ_file=str(root / "environ"),
        state_dir=str(root / "state"),
    )


@pytest.fixture
def shop(cloud: Cloud, sshd: Sshd, tmp_path: Path) -> Iterator[Shop]:
    cloud.settings(ssh_host="127.0.0.1", ssh_port=sshd.port)
    shop = make_shop(cloud, sshd, tmp_path)
    yield shop
    shop.client.close()
    shop.log.close()


def test_a_worker_from_spawn_to_terminate(shop: Shop) -> None:
    spawned = shop.client.spawn_worker("gpu-1", {"EXTRA": "1"})
    pod_id = spawned["runpod_id"]
    assert spawned["status"] == "spawning"
    assert (spawned["worker_id"], spawned["gpu_type"], spawned["cost_per_hr"]) == ("gpu-1", GPU, 0.69)
    assert spawned["pod_name"].startswith("gpu-1-")
    assert shop.client.check_and_initialize_worker("gpu-1", pod_id)["status"] == "spawning"
    shop.cloud.step(60)
    report = shop.client.check_and_initialize_worker("gpu-1", pod_id)
    assert report["status"] == "active", report
    assert report["ssh_details"]["ip"] == "127.0.0.1"
    assert shop.client.execute_command_on_worker(pod_id, "echo hi; exit 3", 10) == (3, "hi\n", "")
    assert shop.client.start_worker_process(pod_id, "gpu-1")
    worker = int((shop.root / "state" / "worker.pid").read_text())
    try:
        assert shop.client.start_worker_process(pod_id, "gpu-1"), "already running is fine"
        log = (shop.root / "state" / "worker.log").read_text()
        assert log == "worker --mode all token from-the-pod\n"
    finally:
        os.kill(worker, signal.SIGKILL)
    assert shop.client.terminate_worker(pod_id)
    assert shop.cloud.living() == []


def test_the_environment_of_the_pod(shop: Shop, sshd: Sshd) -> None:
    pod_id = shop.client.spawn_worker("gpu-1", {"EXTRA": "1"})["runpod_id"]
    env = shop.truth_env(pod_id)
    assert env["WORKER_ID"] == "gpu-1"
    assert env["MONGODB_URL"] == "mongodb://u:p@h/db"
    assert env["CONTROL_PLANE_TOKEN"] == "tok"
    assert env["PUBLIC_KEY"] == sshd.public_key.strip()
    assert env["EXTRA"] == "1"
    assert not [name for name in env if "SUPABASE" in name]


def test_spawning_a_worker_twice_gives_one_pod(shop: Shop) -> None:
    first, second = shop.client.spawn_worker("gpu-1"), shop.client.spawn_worker("gpu-1")
    assert first["runpod_id"] == second["runpod_id"] == shop.cloud.living()[0]
    assert len(shop.cloud.living()) == 1
    other = shop.client.spawn_worker("gpu-2")
    assert sorted(shop.cloud.living()) == sorted([first["runpod_id"], other["runpod_id"]])


def test_created_then_500_is_one_pod(shop: Shop) -> None:
    shop.cloud.fault("create_then_500", times=1)
    shop.cloud.fault("read_after_write_lag", seconds=20)
    spawned = shop.client.spawn_worker("gpu-1")
    assert shop.cloud.living() == [spawned["runpod_id"]]


def test_no_capacity_leads_to_the_next_gpu_and_then_to_an_error(cloud: Cloud, sshd: Sshd, tmp_path: Path) -> None:
    shop = make_shop(cloud, sshd, tmp_path, gpu_types=("RTX 4090", "L4"))
    cloud.fault("no_capacity", gpu=GPU)
    assert shop.client.spawn_worker("gpu-1")["gpu_type"] == OTHER_GPU
    cloud.fault("no_capacity")
    with pytest.raises(SpawnError, match="no candidate has a machine") as failed:
        shop.client.spawn_worker("gpu-2")
    assert len(failed.value.result.failed_candidates) >= 1
    shop.client.close()
    shop.log.close()


def test_a_price_ceiling_is_obeyed(cloud: Cloud, sshd: Sshd, tmp_path: Path) -> None:
    shop = make_shop(cloud, sshd, tmp_path, gpu_types=("RTX 4090", "L4"), price_ceiling=0.5)
    assert shop.client.spawn_worker("gpu-1")["gpu_type"] == OTHER_GPU
    shop.client.close()
    shop.log.close()


def test_a_named_volume_is_mounted_where_it_is(cloud: Cloud, sshd: Sshd, tmp_path: Path) -> None:
    shop = make_shop(cloud, sshd, tmp_path, storage_name="Peter")
    with pytest.raises(NotAvailableError, match="RUNPOD_STORAGE_NAME"):
        shop.client.spawn_worker("gpu-1")
    cloud.make_volume("Peter")
    shop.client.spawn_worker("gpu-1")
    assert [pod["data_center"] for pod in cloud.truth()] == [CENTER]
    shop.client.close()
    shop.log.close()


def test_an_unknown_gpu_lists_what_there_is(cloud: Cloud, sshd: Sshd, tmp_path: Path) -> None:
    shop = make_shop(cloud, sshd, tmp_path, gpu_types=("RTX 9999",))
    with pytest.raises(NotAvailableError, match="RTX 4090"):
        shop.client.spawn_worker("gpu-1")
    shop.client.close()
    shop.log.close()


def test_the_status_report_has_the_documented_keys(shop: Shop) -> None:
    pod_id = shop.client.spawn_worker("gpu-1")["runpod_id"]
    early = shop.client.get_pod_status(pod_id)
    assert (early["desired_status"], early["actual_status"]) == ("PROVISIONING", "PROVISIONING")
    shop.cloud.step(60)
    report = shop.client.get_pod_status(pod_id)
    assert set(report) == {
        "runpod_id",
        "desired_status",
        "actual_status",
        "ip",
        "ports",
        "ssh_password",
        "created_at",
        "uptime_seconds",
        "cost_per_hr",
    }
    assert (report["desired_status"], report["actual_status"]) == ("RUNNING", "RUNNING")
    assert report["ports"] == [
        {"privatePort": 22, "publicPort": report["ports"][0]["publicPort"], "ip": "127.0.0.1"}
    ]
    assert report["ip"] == "127.0.0.1"
    assert report["ssh_password"] == "runpod"
    assert (report["uptime_seconds"] or 0) > 0
    assert (report["created_at"] or "").endswith("Z")


def test_an_unreadable_provider_is_never_a_dead_worker(shop: Shop) -> None:
    pod_id = shop.client.spawn_worker("gpu-1")["runpod_id"]
    shop.cloud.step(60)
    shop.cloud.clock.advance(100_000)
    shop.cloud.fault("http_error", status=503)
    assert shop.client.check_and_initialize_worker("gpu-1", pod_id)["status"] == "spawning"
    report = shop.client.get_pod_status(pod_id)
    assert report["desired_status"] == "UNKNOWN"
    assert "503" in report["error"]
    assert not shop.client.terminate_worker(pod_id), "not confirmed"


def test_a_new_pod_that_lags_is_spawning_and_a_vanished_one_an_error(shop: Shop) -> None:
    shop.cloud.fault("read_after_write_lag", seconds=60, times=1)
    pod_id = shop.client.spawn_worker("gpu-1")["runpod_id"]
    assert shop.client.check_and_initialize_worker("gpu-1", pod_id)["status"] == "spawning"
    assert shop.client.get_pod_status(pod_id)["desired_status"] == "PROVISIONING"
    shop.cloud.sleep(200)
    shop.cloud.inject(pod_id, "vanish")
    report = shop.client.check_and_initialize_worker("gpu-1", pod_id)
    assert report["status"] == "error"
    assert "gone" in report["error"]
    assert shop.client.get_pod_status(pod_id)["desired_status"] == "TERMINATED"


@pytest.mark.parametrize("fault", ["stuck_provisioning", "never_ready", "boot_error"])
def test_a_pod_that_never_comes_up_ends_as_an_error_in_time(shop: Shop, fault: str) -> None:
    shop.cloud.fault(fault)
    pod_id = shop.client.spawn_worker("gpu-1")["runpod_id"]
    shop.cloud.sleep(30)
    first = shop.client.check_and_initialize_worker("gpu-1", pod_id)
    assert first["status"] == ("error" if fault == "boot_error" else "spawning")
    shop.cloud.sleep(600)
    assert shop.client.check_and_initialize_worker("gpu-1", pod_id)["status"] == "error"


def test_an_sshd_that_is_late_is_waited_for_and_a_wrong_key_ends_as_an_error(
    cloud: Cloud, sshd: Sshd, tmp_path: Path
) -> None:
    make_key(tmp_path / "stranger")
    cloud.settings(ssh_host="127.0.0.1", ssh_port=sshd.port)
    shop = make_shop(cloud, sshd, tmp_path, login=replace(sshd.login, private_key_path=tmp_path / "stranger"))
    pod_id = shop.client.spawn_worker("gpu-1")["runpod_id"]
    cloud.sleep(60)
    early = shop.client.check_and_initialize_worker("gpu-1", pod_id)
    assert early["status"] == "spawning"
    cloud.sleep(600)
    late = shop.client.check_and_initialize_worker("gpu-1", pod_id)
    assert late["status"] == "error"
    assert "RUNPOD_SSH_PUBLIC_KEY_PATH" in late["error"]
    assert not shop.client.start_worker_process(pod_id, "gpu-1")
    shop.client.close()
    shop.log.close()


def test_a_failed_step_is_an_error_with_its_name_and_fix(shop: Shop) -> None:
    (shop.root / "code" / "scripts" / "init_runpod.sh").write_text("echo no space left >&2; exit 1\n")
    pod_id = shop.client.spawn_worker("gpu-1")["runpod_id"]
    shop.cloud.step(60)
    report = shop.client.check_and_initialize_worker("gpu-1", pod_id)
    assert report["status"] == "error"
    assert "init: failed" in report["error"]
    assert "no space left" in report["error"]


def test_a_lost_terminate_is_made_good_by_a_sweep(shop: Shop) -> None:
    from pod_worker.pods.launch.sweep import sweep

    pod_id = shop.client.spawn_worker("gpu-1")["runpod_id"]
    shop.cloud.fault("http_error", method="DELETE", status=500, times=4)
    assert not shop.client.terminate_worker(pod_id)
    provider = shop.cloud.provider("v2")
    assert len(shop.cloud.living()) == 1
    assert not sweep(provider, shop.log, clock=shop.cloud.clock).failures
    assert shop.cloud.living() == []
    provider.close()


def test_the_address_of_a_pod_without_one_says_so(shop: Shop) -> None:
    pod_id = shop.client.spawn_worker("gpu-1")["runpod_id"]
    with pytest.raises(Exception, match="no SSH address"):
        shop.client.get_ssh_client(pod_id)
    shop.cloud.step(60)
    assert isinstance(shop.client.get_ssh_client(pod_id).address, SshAddress)


# ── module functions: they read the environment and the real clock ──────────────────────────────────────────


@pytest.fixture
def surroundings(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    for name in [name for name in os.environ if name.startswith("RUNPOD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RUNPOD_API_KEY", cloud.api_key)
    monkeypatch.setenv("RUNPOD_API_BASE_URL", cloud.url)
    monkeypatch.setenv("RUNPOD_STATE_DIR", str(tmp_path / "pods"))
    return cloud


@pytest.mark.parametrize("api", ["v2", "v1", "graphql"])
def test_the_look_ups(surroundings: Cloud, monkeypatch: pytest.MonkeyPatch, api: str) -> None:
    monkeypatch.setenv("RUNPOD_REST_VERSION", api)
    volume_id = surroundings.make_volume("Peter")
    assert get_network_volumes(surroundings.api_key) == [
        {"id": volume_id, "name": "Peter", "size": 20, "dataCenterId": CENTER}
    ]
    gpu = find_gpu_type("RTX 4090", surroundings.api_key)
    assert (gpu["id"], gpu["displayName"], gpu["memoryInGb"], gpu["available"]) == (GPU, "RTX 4090", 24, True)
    with pytest.raises(NotAvailableError):
        find_gpu_type("RTX 9999", surroundings.api_key)


def test_the_async_wrappers(surroundings: Cloud) -> None:
    async def through() -> None:
        pod_id = await spawn_runpod_gpu("gpu-1")
        assert surroundings.living() == [pod_id]
        assert (await get_runpod_status(pod_id))["runpod_id"] == pod_id
        assert await terminate_runpod_gpu(pod_id)

    asyncio.run(through())
    assert surroundings.living() == []


def create_one(cloud: Cloud, state_dir: Path, wait_seconds: float) -> CreatedPod:
    return create_pod_and_wait(
        api_key=cloud.api_key,
        name="one",
        image_name="img",
        gpu_type_id=GPU,
        env={"A": "1"},
        wait_seconds=wait_seconds,
        state_dir=state_dir,
    )


def test_a_pod_is_created_and_waited_for(surroundings: Cloud, tmp_path: Path) -> None:
    with pytest.raises(PodNotReadyError, match="terminated"):
        create_one(surroundings, tmp_path, wait_seconds=0.01)
    assert surroundings.living() == [], "the one that did not come up is gone"
    at_once = create_one(surroundings, tmp_path, wait_seconds=0)
    assert at_once["details"]["actual_status"] == "PROVISIONING"
    surroundings.settings(provision_seconds=0, pull_seconds=0, ready_seconds=0)
    ready = create_one(surroundings, tmp_path, wait_seconds=30)
    surroundings.settings(provision_seconds=2, pull_seconds=8, ready_seconds=1)
    assert ready["details"]["actual_status"] == "RUNNING"
    assert ready["details"]["cost_per_hr"] == 0.69
    assert sorted(surroundings.living()) == sorted([at_once["id"], ready["id"]])


def test_connecting_to_an_unknown_api_is_refused(cloud: Cloud) -> None:
    import random

    with pytest.raises(ValueError, match="RUNPOD_REST_VERSION"):
        connect("v3", "k", clock=cloud.clock, sleep=cloud.sleep, rng=random.Random())
