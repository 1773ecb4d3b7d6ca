"""Rules of a create request that no schema expresses.

Sources: RunPod's documentation and v2 contract (50 environment variables, 10 HTTP ports, no UDP, a network
volume needs Secure Cloud and pins the data center). Raises `ApiError` and never changes a spec.
"""

from __future__ import annotations

import re

from pod_worker.fake_runpod.cloud.account import Account, Volume
from pod_worker.fake_runpod.cloud.catalogue import Catalogue
from pod_worker.fake_runpod.cloud.pod import PodSpec
from pod_worker.fake_runpod.errors import ApiError, ApiErrorKind, not_found

ENV_LIMIT = 50
HTTP_PORT_LIMIT = 10
NAME_LIMIT = 191
_PORT = re.compile(r"\d{1,5}/(http|tcp)")


def check_container(name: str, env: dict[str, str], ports: tuple[str, ...]) -> None:
    if len(name) > NAME_LIMIT:
        raise ApiError(ApiErrorKind.RULE, f"name is longer than {NAME_LIMIT} characters")
    if len(env) > ENV_LIMIT:
        raise ApiError(ApiErrorKind.RULE, f"too many environment variables: {len(env)}, the limit is {ENV_LIMIT}")
    for port in ports:
        if _PORT.fullmatch(port) is None:
            raise ApiError(ApiErrorKind.RULE, f"invalid port {port!r}: use <number>/http or <number>/tcp")
    if sum(port.endswith("/http") for port in ports) > HTTP_PORT_LIMIT:
        raise ApiError(ApiErrorKind.RULE, f"too many http ports: the limit is {HTTP_PORT_LIMIT}")


def check_spec(spec: PodSpec, account: Account, catalogue: Catalogue) -> Volume | None:
    """All checks before placement. Returns the network volume that the pod mounts."""
    check_container(spec.name, spec.env, spec.ports)
    for data_center in spec.data_center_ids:
        if data_center not in catalogue.data_centers:
            raise ApiError(ApiErrorKind.RULE, f"unknown data center {data_center!r}")
    if spec.is_cpu:
        _check_cpu(spec, catalogue)
    else:
        _check_gpu(spec, catalogue)
    return _check_volume(spec, account)


def _check_cpu(spec: PodSpec, catalogue: Catalogue) -> None:
    if spec.cpu_id not in catalogue.cpus:
        raise ApiError(ApiErrorKind.RULE, f"unknown CPU flavor {spec.cpu_id!r}")
    if spec.vcpu_count < 2 or spec.vcpu_count > 32 or spec.vcpu_count & (spec.vcpu_count - 1):
        raise ApiError(ApiErrorKind.RULE, f"vcpuCount {spec.vcpu_count} is not a power of two from 2 to 32")
    if spec.volume_gb:
        raise ApiError(ApiErrorKind.RULE, "mounts.persistent is not supported on CPU pods")


def _check_gpu(spec: PodSpec, catalogue: Catalogue) -> None:
    for gpu_id in spec.gpu_ids:
        if gpu_id not in catalogue.gpus:
            raise ApiError(ApiErrorKind.RULE, f"unknown GPU type {gpu_id!r}")
    if spec.allowed_cuda and spec.min_cuda:
        raise ApiError(ApiErrorKind.RULE, "allowedCudaVersions and minCudaVersion are mutually exclusive")


def _check_volume(spec: PodSpec, account: Account) -> Volume | None:
    if spec.network_volume_id is None:
        return None
    volume = account.volumes.get(spec.network_volume_id)
    if volume is None:
        raise not_found("network volume")
    if "SECURE" not in spec.clouds:
        raise ApiError(ApiErrorKind.RULE, "network volumes are only available in SECURE cloud")
    if spec.data_center_ids and volume.data_center_id not in spec.data_center_ids:
        raise ApiError(
            ApiErrorKind.RULE,
            f"network volume {volume.id} is in {volume.data_center_id}, none of the requested data centers",
        )
    return volume
