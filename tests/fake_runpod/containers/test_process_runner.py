"""Pods that run real processes: their environment, their output, and that none outlives its pod."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pod_worker.fake_runpod.cloud.settings import SimulationSettings
from pod_worker.fake_runpod.containers.process_runner import CONTAINER, ProcessRunner
from pod_worker.fake_runpod.server import Options, running
from tests.fake_runpod.api_client import GPU, Api
from tests.fake_runpod.waiting import processes_with, until

QUICK = SimulationSettings(provision_seconds=0, pull_seconds=0, ready_seconds=0, stop_grace_seconds=5)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    options = Options(speed=1, settings=QUICK, make_runner=lambda runtime: ProcessRunner(tmp_path, runtime))
    with running(options) as fake, Api(fake) as client:
        yield client


@pytest.fixture
def marker() -> str:
    return f"marker-{uuid.uuid4()}"


def start(api: Api, script: str, marker: str, **changes: Any) -> str:
    """A pod that runs a shell script."""
    body = {"name": "p", "imageName": "i", "gpuTypeIds": [GPU], "ports": ["22/tcp"]}
    command = {"dockerEntrypoint": ["bash", "-c"], "dockerStartCmd": [script]}
    made = api.post("/v1/pods", json=body | command | {"env": {"MARKER": marker}} | changes)
    assert made.status_code == 201, made.text
    return str(made.json()["id"])


def container_log(api: Api, pod_id: str) -> list[str]:
    pod = api.fake.runtime.simulator.find_hidden(pod_id)
    return (
        []
        if pod is None
        else [line.text for line in api.fake.runtime.simulator.log_of(pod).tail(100, "container")]
    )


def status(api: Api, pod_id: str) -> str:
    return str(api.pod(pod_id)["status"])


def test_the_pod_sees_runpods_variables_and_its_own_but_not_ours(
    api: Api, marker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUR_SECRET", "hush")
    api.patch("/_fake/account", json={"secrets": {"token": "s3cret"}}).raise_for_status()
    env = {"MARKER": marker, "TOKEN": "{{ RUNPOD_SECRET_token }}"}
    pod_id = start(api, "env; pwd; ls -d workspace", marker, env=env)
    until(lambda: "workspace" in container_log(api, pod_id), "the pod's last line")
    seen = dict(line.split("=", 1) for line in container_log(api, pod_id) if "=" in line)
    pod = api.get(f"/v1/pods/{pod_id}").json()
    assert seen["RUNPOD_POD_ID"] == pod_id
    assert seen["RUNPOD_DC_ID"] == pod["machine"]["dataCenterId"]
    assert seen["RUNPOD_TCP_PORT_22"].isdecimal()
    assert seen["RUNPOD_API_KEY"].startswith("rpa_pod_")
    assert seen["RUNPOD_API_BASE_URL"] == api.fake.url
    assert seen["TOKEN"] == "s3cret"
    assert "OUR_SECRET" not in seen
    assert pod["env"]["TOKEN"] == "{{ RUNPOD_SECRET_token }}"  # never shown filled in


def test_a_pod_exits_when_its_command_ends(api: Api, marker: str) -> None:
    pod_id = start(api, "echo out; echo err >&2; exit 3", marker)
    until(lambda: status(api, pod_id) == "EXITED", "EXITED")
    assert sorted(container_log(api, pod_id)) == ["err", "out"]
    pod = api.fake.runtime.simulator.find(pod_id)
    system = [line.text for line in api.fake.runtime.simulator.log_of(pod).tail(100, "system")]
    assert "container exited with code 3" in system
    assert api.pod(pod_id)["cost"] == 0


def test_v2_args_are_the_command_too(api: Api, marker: str) -> None:
    pod = api.create(args="bash -c 'echo \"two words\"'", env={"MARKER": marker})
    until(lambda: container_log(api, pod["id"]) == ["two words"], "the pod's line")


def test_terminate_kills_the_whole_tree_even_what_hides(api: Api, marker: str, tmp_path: Path) -> None:
    script = (
        "setsid sleep 300 & (setsid sleep 300 &) ; nohup sleep 300 & trap '' TERM; echo up; sleep 300; sleep 300"
    )
    pod_id = start(api, script, marker)
    until(lambda: container_log(api, pod_id) == ["up"], "the tree to stand")
    until(lambda: len(processes_with(marker)) >= 6, "all processes")  # container, shell, four sleepers
    assert (tmp_path / "pods" / pod_id).is_dir()
    api.patch("/_fake/settings", json={"stop_grace_seconds": 0}).raise_for_status()
    api.delete(f"/v2/pods/{pod_id}").raise_for_status()
    until(lambda: not processes_with(marker), "the tree to be gone")
    until(lambda: not (tmp_path / "pods" / pod_id).exists(), "the folder to be gone")


def test_orphans_go_when_the_command_ends(api: Api, marker: str) -> None:
    pod_id = start(api, "(setsid sleep 300 &); echo bye", marker)
    until(lambda: status(api, pod_id) == "EXITED", "EXITED")
    until(lambda: not processes_with(marker), "the orphan to be gone")


def test_a_stop_is_polite_first(api: Api, marker: str) -> None:
    pod_id = start(api, "trap 'echo going; exit 0' TERM; echo up; while :; do sleep 0.05; done", marker)
    until(lambda: "up" in container_log(api, pod_id), "the pod to be up")
    assert api.act(pod_id, "stop").json()["status"] == "EXITED"
    until(lambda: "going" in container_log(api, pod_id), "the polite end")
    until(lambda: not processes_with(marker), "the end")


def test_a_terminated_pod_keeps_its_folder_until_its_process_ends(api: Api, marker: str, tmp_path: Path) -> None:
    volume = api.post("/v2/network-volumes", json={"name": "v", "size": 10, "dataCenter": "EU-RO-1"}).json()
    script = "trap 'sleep 0.3; echo bye > workspace/word; exit' TERM; echo up; while :; do sleep 0.05; done"
    pod_id = start(api, script, marker, networkVolumeId=volume["id"])
    until(lambda: "up" in container_log(api, pod_id), "the pod to be up")
    api.delete(f"/v2/pods/{pod_id}").raise_for_status()
    until(lambda: not (tmp_path / "pods" / pod_id).exists(), "the folder to be gone")
    assert (tmp_path / "volumes" / volume["id"] / "word").read_text() == "bye\n"


def test_a_generation_starts_after_the_previous_one_has_ended(api: Api, marker: str) -> None:
    script = (
        "mkdir busy && echo alone || echo overlap; trap 'sleep 0.5; rmdir busy; exit' TERM; "
        "while :; do sleep 0.05; done"
    )
    pod_id = start(api, script, marker)
    until(lambda: len(container_log(api, pod_id)) == 1, "the first generation")
    api.act(pod_id, "restart").raise_for_status()
    until(lambda: len(container_log(api, pod_id)) >= 2, "the second generation")
    assert container_log(api, pod_id) == ["alone", "alone"]


def test_an_interruption_gives_its_notice_and_no_more(api: Api, marker: str) -> None:
    pod_id = start(api, "trap '' TERM; echo up; while :; do sleep 0.05; done", marker)
    until(lambda: "up" in container_log(api, pod_id), "the pod to be up")
    api.post(f"/_fake/pods/{pod_id}/interrupt", json={"notice_seconds": 0.3}).raise_for_status()
    assert processes_with(marker)
    until(lambda: not processes_with(marker), "SIGKILL after the notice")
    until(lambda: status(api, pod_id) == "EXITED", "EXITED")


def test_a_restart_keeps_the_folder(api: Api, marker: str) -> None:
    pod_id = start(api, "echo life >> lives; wc -l < lives; sleep 300", marker)
    until(lambda: len(container_log(api, pod_id)) == 1, "the first generation")
    api.act(pod_id, "restart").raise_for_status()
    until(lambda: len(container_log(api, pod_id)) == 2, "the second generation")
    assert [line.strip() for line in container_log(api, pod_id)] == ["1", "2"]
    assert status(api, pod_id) == "RUNNING"
    until(lambda: len(processes_with(marker)) == 2, "one container and one sleeper, which the shell became")


def test_a_network_volume_outlives_its_pods(api: Api, marker: str) -> None:
    volume = api.post("/v2/network-volumes", json={"name": "v", "size": 10, "dataCenter": "EU-RO-1"}).json()
    first = start(api, "echo kept > workspace/file", marker, networkVolumeId=volume["id"])
    until(lambda: status(api, first) == "EXITED", "the first pod's end")
    api.delete(f"/v2/pods/{first}").raise_for_status()
    second = start(api, "cat workspace/file", marker, networkVolumeId=volume["id"])
    until(lambda: container_log(api, second) == ["kept"], "the second pod's line")


def test_a_command_that_does_not_exist_says_so(api: Api) -> None:
    pod = api.create(args="no-such-program --at-all")
    until(lambda: status(api, pod["id"]) == "EXITED", "EXITED")
    assert container_log(api, pod["id"]) == ["cannot start 'no-such-program': No such file or directory"]


def test_a_pod_without_a_command_idles(api: Api) -> None:
    pod = api.create()
    until(lambda: container_log(api, pod["id"]), "a line")
    assert status(api, pod["id"]) == "RUNNING"


def test_closing_the_server_ends_every_pod(tmp_path: Path, marker: str) -> None:
    options = Options(speed=1, settings=QUICK, make_runner=lambda runtime: ProcessRunner(tmp_path, runtime))
    with running(options) as fake, Api(fake) as client:
        pod_id = start(client, "trap '' TERM; echo up; sleep 300; sleep 300", marker)
        until(lambda: container_log(client, pod_id) == ["up"], "the pod to be up")
    assert processes_with(marker) == []


def test_containers_die_with_a_killed_server(marker: str) -> None:
    command = [
        sys.executable,
        "-I",
        "-S",
        str(CONTAINER),
        "bash",
        "-c",
        "(setsid sleep 300 &); echo up; sleep 300",
    ]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {"MARKER": marker}
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    process.stdin.close()  # what the kernel does to a killed server's pipes
    assert process.wait(20) == 128 + signal.SIGKILL
    process.stdout.close()
    assert processes_with(marker) == []
