"""What runs inside a fake pod: the port to it, the environment it is given, and the runner that runs nothing.

A runner is told to start and stop contents and reports back lines and exits; it never decides a pod's status.
"""

from __future__ import annotations

import re
import shlex
from typing import Protocol

from pod_worker.fake_runpod.cloud.account import Account
from pod_worker.fake_runpod.cloud.pod import Pod

_SECRET = re.compile(r"\{\{\s*RUNPOD_SECRET_(\w+)\s*\}\}")


class ContainerEvents(Protocol):
    """Where a runner reports; callable from any thread."""

    def report_output(self, pod_id: str, line: str) -> None: ...

    def report_exit(self, pod_id: str, generation: int, code: int) -> None: ...


class ContainerRunner(Protocol):
    def start(self, pod: Pod, env: dict[str, str], start_command: tuple[str, ...]) -> None:
        """Start the contents of a pod that is RUNNING now; an empty command means the image's own."""

    def stop(self, pod_id: str, reason: str, notice_seconds: float, *, is_final: bool) -> None:
        """End them: politely, and after `notice_seconds` (real ones) by force. Unknown pods are ignored.
        `is_final` also removes what the pod left on disk."""

    def close(self) -> None:
        """End everything, now, and wait for it."""


class NoRunner:
    """Pods are entries in a table and nothing more."""

    def start(self, pod: Pod, env: dict[str, str], start_command: tuple[str, ...]) -> None:
        pass

    def stop(self, pod_id: str, reason: str, notice_seconds: float, *, is_final: bool) -> None:
        pass

    def close(self) -> None:
        pass


def start_command(pod: Pod) -> tuple[str, ...]:
    """v1's entrypoint and start command, or v2's and GraphQL's one string, split as a shell would."""
    listed = pod.spec.entrypoint + pod.spec.start_cmd
    return listed or tuple(shlex.split(pod.spec.args))


def pod_env(pod: Pod, account: Account, base_url: str) -> dict[str, str]:
    """The variables RunPod puts into a pod, then the pod's own with its secrets filled in. RUNPOD_API_BASE_URL
    is this fake's addition: it leads official clients inside the pod back here."""
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
