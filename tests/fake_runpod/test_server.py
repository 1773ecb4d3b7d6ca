"""Serving, keeping the cloud on disk, and what is read at the start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import msgspec
import pytest

from pod_worker.fake_runpod.api.rate_limit import Quotas
from pod_worker.fake_runpod.cloud.account import Account
from pod_worker.fake_runpod.cloud.settings import SimulationSettings
from pod_worker.fake_runpod.containers.process_runner import ProcessRunner
from pod_worker.fake_runpod.server import Options, bind, build_runtime, running, serve
from tests.fake_runpod.api_client import Api
from tests.fake_runpod.waiting import until

STILL = SimulationSettings(billing_lag_seconds=0)


def test_the_cloud_survives_a_restart(tmp_path: Path) -> None:
    options = Options(speed=0, settings=STILL, state=tmp_path / "deep" / "cloud.json")
    with running(options) as fake, Api(fake) as api:
        running_pod = api.boot(env={"A": "1"})
        stopped = api.boot(name="stopped", mounts={"persistent": {"size": 10, "path": "/w"}})
        api.act(stopped["id"], "stop")
        young = api.create(name="young")
        gone = api.boot(name="gone")
        api.delete(f"/v2/pods/{gone['id']}")
        api.fault("gone", surface="v1")
        volume = api.post("/v2/network-volumes", json={"name": "v", "size": 20, "dataCenter": "EU-RO-1"}).json()
        api.step(3600)
        before = {pod["id"]: pod for pod in api.get("/v2/pods").json()["pods"]}
        bill = api.get("/v2/billing").json()
    assert os.stat(tmp_path / "deep" / "cloud.json").st_mode & 0o777 == 0o600
    with running(options) as fake, Api(fake) as api:
        after = {pod["id"]: pod for pod in api.get("/v2/pods").json()["pods"]}
        assert after == before
        assert set(after) == {running_pod["id"], stopped["id"], young["id"]}
        assert api.get("/v2/billing").json() == bill
        assert api.get("/v1/pods").status_code == 410
        assert api.get(f"/v2/network-volumes/{volume['id']}").json() == volume
        api.step(3600)
        longer = api.get("/v2/billing").json()["metadata"]["totals"]["podGpuAmount"]
        assert longer - bill["metadata"]["totals"]["podGpuAmount"] == pytest.approx(2 * 0.69, abs=1e-6)
        assert api.act(stopped["id"], "start").status_code == 200
        assert api.create()["id"] not in before


def test_timers_go_on_after_a_restart(tmp_path: Path) -> None:
    options = Options(speed=0, state=tmp_path / "cloud.json")
    with running(options) as fake, Api(fake) as api:
        pod_id = api.create()["id"]
    with running(options) as fake, Api(fake) as api:
        api.step(20)
        assert api.pod(pod_id)["status"] == "RUNNING"


def test_the_key_in_force_is_the_one_given_now(tmp_path: Path) -> None:
    state = tmp_path / "cloud.json"
    with running(Options(speed=0, state=state)) as fake, Api(fake) as api:
        api.create()
        first = fake.api_key
    with running(Options(speed=0, state=state)) as fake:
        assert fake.api_key == first, "the state file keeps a key that was not given"
    with running(Options(Account(api_keys=["rpa_new"]), speed=0, state=state)) as fake, Api(fake) as api:
        assert len(api.get("/v2/pods").json()["pods"]) == 1
        assert api.get("/v2/pods", headers={"Authorization": f"Bearer {first}"}).status_code == 401


def test_a_state_file_of_format_1_is_read(tmp_path: Path) -> None:
    state = tmp_path / "cloud.json"
    state.write_bytes(Path(__file__).with_name("state_format_1.json").read_bytes())
    with running(Options(speed=0, state=state)) as fake, Api(fake) as api:
        assert fake.api_key != "rpa_fake", "the former default key is public"
        pods = {pod["name"]: pod for pod in api.get("/v2/pods").json()["pods"]}
        assert {name: pod["status"] for name, pod in pods.items()} == {
            "runs": "RUNNING",
            "slow": "STARTING",
            "stopped": "EXITED",
        }
        assert pods["runs"]["env"] == {"life": "mine", "fate": "mine"}
        assert {pod["name"]: pod["generation"] for pod in api.truth()} == {"runs": 1, "slow": 0, "stopped": 1}
        assert api.get("/_fake/faults").json()[0]["triggered"] == 1
        api.step(300)
        assert api.pod(pods["slow"]["id"])["status"] == "STARTING"
        api.step(300)
        assert api.pod(pods["slow"]["id"])["status"] == "RUNNING"
        assert api.get("/v2/billing/pods").json()["metadata"]["totals"]["gpuAmount"] > 0
    assert msgspec.json.decode(state.read_bytes())["format"] == 2


def test_a_state_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cloud.json"
    for text in ("{}", '{"format": 1}', '{"format": 1, "pod_ledger": []}', "[]", "not JSON"):
        path.write_text(text)
        with pytest.raises(ValueError, match="not a state file"):
            build_runtime(Options(state=path))


def test_rules_may_stand_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "faults.yaml"
    path.write_text("- {kind: gone, surface: v1}\n- {kind: no_capacity, gpu: NVIDIA L4, times: 3}\n")
    assert len(build_runtime(Options(faults=path)).simulator.faults.rules) == 2
    path.write_text("- {kind: gone, surfaces: v1}\n")
    with pytest.raises(msgspec.ValidationError, match="surfaces"):
        build_runtime(Options(faults=path))


def test_strict_quotas_give_429_with_a_wait() -> None:
    with running(Options(quotas=Quotas(minute=2, hour=100, day=100))) as fake, Api(fake) as api:
        answers = [api.get("/v2/pods") for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert 1 <= int(answers[2].headers["retry-after"]) <= 60
        assert answers[2].headers["ratelimit"].startswith('"minute";r=0;t=')
        assert answers[2].json()["detail"] == "rate limit exceeded for the minute window"


def test_virtual_time_runs_by_itself() -> None:
    with running(Options(speed=1000, settings=STILL)) as fake, Api(fake) as api:
        pod_id = api.create()["id"]
        until(lambda: api.pod(pod_id)["status"] == "RUNNING", "RUNNING")
        until(lambda: api.get("/v2/billing").json()["metadata"]["totals"]["totalAmount"] > 0, "a bill")


def test_two_fakes_with_one_seed_give_the_same_ids() -> None:
    def ids() -> list[str]:
        with running(Options(speed=0, seed=5)) as fake, Api(fake) as api:
            return [api.create()["id"] for _ in range(3)]

    assert ids() == ids()


SERVE = """
from pod_worker.fake_runpod.server import serve
serve(port=0, on_ready=lambda url, key: print(url, key, flush=True))
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_serve_says_when_it_is_ready_and_ends_on_a_signal(sent: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SERVE], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        url, key = process.stdout.readline().decode().split()
        assert url.startswith("http://127.0.0.1:")
        assert httpx.get(f"{url}/").json()["server"] == "fake-runpod"
        headers = {"Authorization": f"Bearer {key}"}
        body = {"name": "p", "image": "i", "gpu": {"id": "NVIDIA L4", "count": 1}}
        pod_id = httpx.post(f"{url}/v2/pods", json=body, headers=headers).json()["id"]
        with httpx.stream("GET", f"{url}/v2/pods/{pod_id}/logs", headers=headers) as answer:
            assert answer.status_code == 200
            process.send_signal(sent)  # an open log stream does not hold the server up
            process.wait(20)
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()


def test_the_default_key_is_random() -> None:
    keys = [build_runtime(Options()).simulator.account.api_keys for _ in range(2)]
    assert keys[0] != keys[1]
    assert all(len(key) >= 32 for [key] in keys)


def test_pods_that_run_commands_are_served_on_loopback_only(tmp_path: Path) -> None:
    options = Options(make_runner=lambda runtime: ProcessRunner(tmp_path, runtime))
    for address in ("0.0.0.0", "192.0.2.1", "example.invalid"):
        with pytest.raises(ValueError, match="--pods none"):
            bind(build_runtime(options), address, 0).close()
    with bind(build_runtime(Options()), "0.0.0.0", 0) as listener:
        assert listener.getsockname()[0] == "0.0.0.0"


def test_a_port_that_is_taken_is_named() -> None:
    with running() as fake, pytest.raises(OSError, match="cannot listen on"):
        serve(port=int(fake.url.rpartition(":")[2]))
