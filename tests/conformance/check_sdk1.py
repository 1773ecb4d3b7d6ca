"""The checks of runpod 1.12.0 (GraphQL), run inside its own virtual environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import drive
import runpod
from drive import GPU, IMAGE, KEY, fake, fault, raises, step
from runpod import error
from runpod.cli.utils.rp_info import get_pod_ssh_ip_port

runpod.api_key = KEY
CLI = [sys.executable, "-c", "import sys; from runpod.cli.entry import runpod_cli; sys.exit(runpod_cli())"]


def create(**more: Any) -> dict[str, Any]:
    settings = {"ports": "22/tcp,8888/http", "env": {"A": "b"}} | more
    pod: dict[str, Any] = runpod.create_pod("conformance", IMAGE, GPU, **settings)
    return pod


def gpus() -> str:
    everything = runpod.get_gpus()
    one = runpod.get_gpu(GPU)
    assert len(everything) == 49
    assert (one["memoryInGb"], one["securePrice"], one["communityPrice"]) == (24, 0.69, 0.34)
    assert one["lowestPrice"]["uninterruptablePrice"] == 0.34
    raises(ValueError, lambda: runpod.get_gpu("NVIDIA RTX 9090"))
    return f"{len(everything)} types; an unknown id is a ValueError"


def create_gpu() -> str:
    pod = create()
    assert pod["id"]
    assert pod["machine"]["podHostId"].startswith(pod["id"])
    assert pod["env"] == ["A=b"]
    calls = [request["path"] for request in drive.asked()]
    assert calls == ["/graphql", "/graphql"]
    return "id, machine.podHostId, env as K=V; two calls"


def create_with_volume() -> str:
    body = {"name": "v", "size": 20, "dataCenterId": "EU-RO-1"}
    volume = drive.call("POST", "/v1/networkvolumes", body)[1]
    fake("DELETE", "/requests")
    pod = create(network_volume_id=volume["id"])
    assert len(drive.asked()) == 3
    assert drive.pods()[0]["data_center"] == "EU-RO-1"
    return f"placed in EU-RO-1 with {pod['id'][:4]}…; three calls"


def create_cpu() -> str:
    pod = runpod.create_pod("cpu", IMAGE, instance_id="cpu3c-2-4")
    shown = runpod.get_pod(pod["id"])
    assert (shown["gpuCount"], shown["vcpuCount"], shown["memoryInGb"]) == (0, 2, 4)
    return "deployCpuPod with the forced template runpod-ubuntu"


def get_pod() -> str:
    pod_id = create()["id"]
    young = runpod.get_pod(pod_id)
    assert (young["desiredStatus"], young["runtime"]) == ("RUNNING", None)
    step(20)
    ports = runpod.get_pod(pod_id)["runtime"]["ports"]
    assert {port["privatePort"] for port in ports} == {22, 8888}
    assert runpod.get_pod("unknown") is None
    assert [pod["id"] for pod in runpod.get_pods()] == [pod_id]
    return "runtime null, then ports; unknown is None"


def life() -> str:
    pod_id = create()["id"]
    step(20)
    assert runpod.stop_pod(pod_id)["desiredStatus"] == "EXITED"
    assert runpod.resume_pod(pod_id, 1)["desiredStatus"] == "RUNNING"
    assert runpod.terminate_pod(pod_id) is None
    assert runpod.get_pod(pod_id) is None
    return "EXITED, RUNNING, None, gone"


def capacity() -> str:
    fault("no_capacity", gpu=GPU)
    refused = raises(error.QueryError, create)
    assert str(refused).startswith("There are no longer any instances available with the requested specifications")
    return "QueryError with RunPod's text"


def keys() -> str:
    raises(error.AuthenticationError, lambda: runpod.get_user(api_key="rpa_wrong"))
    fake("DELETE", "/requests")
    runpod.api_key = None
    try:
        raises(error.AuthenticationError, runpod.get_user)
    finally:
        runpod.api_key = KEY
    assert drive.asked() == []
    return "AuthenticationError for both; nothing sent without a key"


def no_errors_key() -> str:
    # A success with `errors: null` would be a TypeError in this client, on any of these.
    pod_id = create()["id"]
    for action in (runpod.get_gpus, runpod.get_pods, runpod.get_user, lambda: runpod.stop_pod(pod_id)):
        action()
    return "five operations without it"


def user() -> str:
    drive.call("POST", "/v1/networkvolumes", {"name": "v", "size": 20, "dataCenterId": "EU-RO-1"})
    volume = runpod.get_user()["networkVolumes"][0]
    assert (volume["name"], volume["size"], volume["dataCenterId"]) == ("v", 20, "EU-RO-1")
    text = "ssh-ed25519 AAAA one\n\nssh-ed25519 BBBB two"
    assert runpod.update_user_settings(text)["pubKey"] == text
    assert runpod.get_user()["pubKey"] == text
    return "networkVolumes; keys joined by blank lines"


def command_line() -> str:
    pod_id = create()["id"]
    runpod.update_user_settings("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA me@here")
    listed = subprocess.run([*CLI, "pod", "list"], capture_output=True, text=True, check=True).stdout
    assert pod_id in listed
    assert IMAGE in listed
    keys_listed = subprocess.run([*CLI, "ssh", "list-keys"], capture_output=True, text=True, check=True).stdout
    assert "me@here" in keys_listed
    return "pod list, ssh list-keys"


def ssh_address() -> str:
    pod_id = create()["id"]
    step(20)
    ip, port = get_pod_ssh_ip_port(pod_id, timeout=10)
    assert ip.startswith("203.0.113.")
    fault("never_ready", name="conformance")
    stalled = create()["id"]
    step(20)
    raises(TimeoutError, lambda: get_pod_ssh_ip_port(stalled, timeout=2))
    return f"{ip}:{port}; TimeoutError when the boot stalls"


def connect() -> str:
    fake("PATCH", "/settings", {"ssh_host": "127.0.0.1", "ssh_port": int(os.environ["SSHD_PORT"])})
    pod_id = create()["id"]
    step(20)
    done = subprocess.run(
        [*CLI, "pod", "connect", pod_id], input="echo in $((40 + 2))\n", capture_output=True, text=True, timeout=60
    )
    assert "in 42" in done.stdout, (done.stdout[-300:], done.stderr[-300:])
    return "key found, shell opened on a real sshd"


CHECKS = {
    1: gpus,
    2: create_gpu,
    3: create_with_volume,
    4: create_cpu,
    5: get_pod,
    6: life,
    7: capacity,
    8: keys,
    9: no_errors_key,
    10: user,
    11: command_line,
    12: ssh_address,
    13: connect,
}

if __name__ == "__main__":
    assert Path.home() != Path("/"), "HOME must be a folder of this run"
    drive.run("runpod 1.12.0", CHECKS)
