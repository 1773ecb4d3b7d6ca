"""The checks of runpod 2.0.0rc2 (REST v2), run inside its own virtual environment."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import Any

import drive
import runpod
from drive import GPU, IMAGE, KEY, fake, fault, raises, step
from runpod import error
from runpod.api.rest import run_rest_paginated_request_async
from runpod.cli.utils.rp_info import get_pod_ssh_ip_port

runpod.api_key = KEY
CLI = [sys.executable, "-c", "import sys; from runpod.cli.entry import runpod_cli; sys.exit(runpod_cli())"]


def create(**more: Any) -> dict[str, Any]:
    pod: dict[str, Any] = runpod.create_pod("conformance", IMAGE, GPU, ports="22/tcp,8888/http", **more)
    return pod


def gpus() -> str:
    assert len(runpod.get_gpus()) == 49
    one = runpod.get_gpu(GPU)
    assert (one["memory"], one["price"]["secure"], one["availability"]) == (24, 0.69, "HIGH")
    raises(ValueError, lambda: runpod.get_gpu("NVIDIA RTX 9090"))
    return "49 types; an unknown id is a ValueError"


def create_cpu() -> str:
    pod = runpod.create_pod("cpu", IMAGE, instance_id="cpu3c-2-4")
    assert pod["cpu"] == {"id": "cpu3c", "vcpuCount": 2, "memory": 4}
    return "cpu{id, vcpuCount, memory}"


def get_pod() -> str:
    pod_id = create()["id"]
    assert runpod.get_pod(pod_id)["runtime"] is None
    step(20)
    assert {port["private"] for port in runpod.get_pod(pod_id)["runtime"]["ports"]} == {22, 8888}
    assert runpod.get_pod("unknown") is None
    return "runtime null, then ports; unknown is None"


def life() -> str:
    pod_id = create()["id"]
    step(20)
    assert runpod.stop_pod(pod_id)["status"] == "EXITED"
    assert runpod.resume_pod(pod_id)["status"] == "STARTING"
    step(20)
    assert runpod.get_pod(pod_id)["status"] == "RUNNING"
    assert runpod.terminate_pod(pod_id) is None
    assert runpod.get_pod(pod_id) is None
    return "EXITED, STARTING, RUNNING, None, gone"


def keys() -> str:
    raises(error.AuthenticationError, lambda: runpod.get_pods(api_key="rpa_wrong"))
    fake("DELETE", "/requests")
    runpod.api_key = None
    try:
        raises(error.AuthenticationError, runpod.get_pods)
    finally:
        runpod.api_key = KEY
    assert drive.asked() == []
    return "AuthenticationError for both; nothing sent without a key"


def user() -> str:
    drive.call("POST", "/v2/network-volumes", {"name": "v", "size": 20, "dataCenter": "EU-RO-1"})
    assert runpod.get_user()["networkVolumes"][0]["dataCenterId"] == "EU-RO-1"
    text = "ssh-ed25519 AAAA one\nssh-ed25519 BBBB two"
    assert runpod.update_user_settings(text)["pubKey"] == text.replace("\n", "\n\n")
    return "written by v2, read by GraphQL"


def ssh_address() -> str:
    pod_id = create()["id"]
    step(20)
    ip, port = get_pod_ssh_ip_port(pod_id, timeout=10)
    assert (ip, port) == tuple(runpod.get_pod(pod_id)["ssh"]["direct"][name] for name in ("host", "port"))
    fault("never_ready", name="conformance")
    stalled = create()["id"]
    step(20)
    raises(TimeoutError, lambda: get_pod_ssh_ip_port(stalled, timeout=2))
    return "ssh.direct; TimeoutError when the boot stalls"


def connect() -> str:
    fake("PATCH", "/settings", {"ssh_host": "127.0.0.1", "ssh_port": int(os.environ["SSHD_PORT"])})
    pod_id = create()["id"]
    step(20)
    done = subprocess.run(
        [*CLI, "pod", "connect", pod_id], input="echo in $((40 + 2))\n", capture_output=True, text=True, timeout=60
    )
    assert "in 42" in done.stdout, (done.stdout[-300:], done.stderr[-300:])
    return "key found, shell opened on a real sshd"


def pagination() -> str:
    made = [create()["id"] for _ in range(3)]
    listed = asyncio.run(run_rest_paginated_request_async("/v2/pods", "pods"))
    assert [pod["id"] for pod in listed] == made
    return "pods and pagination{hasNextPage} as its pager wants them"


def problems() -> str:
    refused: Any = raises(error.QueryError, lambda: create(env={f"V{i}": "" for i in range(51)}))
    assert refused.status_code == 400
    assert "environment variables" in str(refused)
    invalid: Any = raises(error.QueryError, lambda: create(volume_in_gb=5))
    assert invalid.status_code == 422
    assert invalid.errors[0].startswith("$.mounts.persistent.size")
    return "detail is the message, errors are kept"


CHECKS = {
    1: gpus,
    4: create_cpu,
    5: get_pod,
    6: life,
    8: keys,
    10: user,
    12: ssh_address,
    13: connect,
    15: pagination,
    18: problems,
}

if __name__ == "__main__":
    drive.run("runpod 2.0.0rc2", CHECKS)
