"""The container runner's interface, and the runner that runs nothing.

Also here: the environment and the command of a container. A runner starts and stops containers and reports their
output and exits. It never decides a pod's status.
"""

from __future__ import annotations

import re
import shlex
from typing import Protocol

from pod_worker.fake_runpod.cloud.account import Account
from pod_worker.fake_runpod.cloud.pod import Pod

_SECRET = re.compile(r"\{\{\s*RUNPOD_SECRET_(\w+)\s*\}\}")


class ContainerEvents(Protocol):
    """Receives a runner's reports; callable from any thread."""

    def report_output(self, pod_id: str, line: str) -> None: ...

    def report_exit(self, pod_id: str, generation: int, code: int) -> None: ...


class ContainerRunner(Protocol):
    def start(self, pod: Pod, env: dict[str, str], start_command: tuple[str, ...]) -> None:
        """Start the container of a pod that is RUNNING.

        An empty command means the image's own.
        """

    def stop(self, pod_id: str, reason: str, notice_seconds: float, *, is_final: bool) -> None:
        """Send SIGTERM, and SIGKILL after `notice_seconds` (real time).

        Unknown pods are ignored.

        `is_final` also removes the pod's files.
        """

    def close(self) -> None:
        """Kill all containers and wait for their end."""


class NoRunner:
    """Runs nothing in pods."""

    def start(self, pod: Pod, env: dict[str, str], start_command: tuple[str, ...]) -> None:
        pass

    def stop(self, pod_id: str, reason: str, notice_seconds: float, *, is_final: bool) -> None:
        pass

    def close(self) -> None:
        pass


def start_command(pod: Pod) -> tuple[str, ...]:
    """v1's entrypoint and start command, or v2's and GraphQL's one string.

    The string is split as a shell does.
    """
    listed = pod.spec.entrypoint + pod.spec.start_cmd
    return listed or tuple(shlex.split(pod.spec.args))


def pod_env(pod: Pod, account: Account, base_url: str) -> dict[str, str]:
    """RunPod's variables, then the pod's own with its secrets filled in.

    RUNPOD_API_BASE_URL is an addition of this fake: it points official clients in the pod to this server."""
    ours = {
        "RUNPOD_POD_ID": pod.id,
        "RUNPOD_DC_ID": pod.data_center_id,
        "RUNPOD_POD_HOSTNAME": pod.host_id,
        "RUNPOD_GPU_COUNT": str(pod.gpu_count),
        "RUNPOD_GPU_NAME": pod.gpu_id or "",
        "RUNPOD_CPU_COUNT": str(pod.vcpu_count),
        "RUNPOD_MEM_GB": str(pod.memory_gb),
        "RUNPOD_PUBLIC_IP": pod.public_ip,
        "RUNPOD_API_KEY": pod.api_key,
        "CUDA_VERSION": pod.cuda_version or "",
        "RUNPOD_API_BASE_URL": base_url,
    }
    if pod.spec.network_volume_id is not None:
        ours["RUNPOD_VOLUME_ID"] = pod.spec.network_volume_id
    for mapping in pod.mappings:
        if mapping.protocol == "tcp":
            ours[f"RUNPOD_TCP_PORT_{mapping.private}"] = str(mapping.public)
    return ours | {name: _fill(value, account) for name, value in pod.spec.env.items()}


def _fill(value: str, account: Account) -> str:
    return _SECRET.sub(lambda match: account.secrets.get(match[1], match[0]), value)
