"""Pods, volumes, templates and catalogue entries in REST v2's form.

Fields follow RunPod's v2 OpenAPI document of August 2026, with later additions that newer clients expect
(`pagination`, `gpu.memory`). Money is in USD, sizes in GB.
"""

from __future__ import annotations

import base64
import binascii

from pod_worker.core.run import Json
from pod_worker.fake_runpod import timestamps
from pod_worker.fake_runpod.billing.money import price_usd
from pod_worker.fake_runpod.cloud.account import Template, Volume
from pod_worker.fake_runpod.cloud.catalogue import CpuFlavor, DataCenter, GpuType
from pod_worker.fake_runpod.cloud.pod import Pod, PortMapping, Status
from pod_worker.fake_runpod.errors import ApiError, ApiErrorKind


def pod_view(pod: Pod, now_ns: int) -> dict[str, Json]:
    spec = pod.spec
    view: dict[str, Json] = {
        "id": pod.id,
        "name": spec.name,
        "status": pod.status,
        "actions": pod.actions,
        "image": spec.image,
        "args": spec.args,
        "disk": spec.disk_gb,
        "env": spec.env,
        "ports": spec.ports,
        "registry": spec.registry_id,
        "mounts": _mounts(pod),
        "cloud": pod.cloud,
        "dataCenterId": pod.data_center_id,
        "cudaVersion": pod.cuda_version,
        "ssh": {"proxy": _ssh_proxy(pod), "direct": _ssh_direct(pod)},
        "cost": price_usd(pod.cost_nano),
        "locked": spec.locked,
        "globalNetworking": _global_networking(pod),
        "template": None,
        "createdAt": timestamps.rfc3339(pod.created_ns),
        "startedAt": None if pod.started_ns is None else timestamps.rfc3339(pod.started_ns),
        "runtime": _runtime(pod, now_ns),
    }
    if spec.is_cpu:
        view["cpu"] = {"id": spec.cpu_id, "vcpuCount": spec.vcpu_count, "memory": pod.memory_gb}
    else:
        memory = {"memory": pod.memory_gb, "vcpuCount": pod.vcpu_count}
        view["gpu"] = {"id": pod.gpu_id, "count": pod.gpu_count, **memory}
    return view


def _mounts(pod: Pod) -> dict[str, Json]:
    if pod.spec.network_volume_id is not None:
        return {"network": [{"volumeId": pod.spec.network_volume_id, "path": pod.spec.mount_path}]}
    if pod.spec.volume_gb:
        return {"persistent": {"size": pod.spec.volume_gb, "path": pod.spec.mount_path}}
    return {}


def _ssh_proxy(pod: Pod) -> dict[str, Json] | None:
    if pod.status is Status.PROVISIONING:
        return None
    command = f"ssh {pod.host_id}@ssh.runpod.io"
    return {"host": "ssh.runpod.io", "port": 22, "username": pod.host_id, "command": command}


def _ssh_direct(pod: Pod) -> dict[str, Json] | None:
    ssh_mapping = next((m for m in pod.mappings if m.private == 22 and m.protocol == "tcp"), None)
    if ssh_mapping is None or pod.status is not Status.RUNNING or not pod.ready:
        return None
    command = f"ssh root@{ssh_mapping.ip} -p {ssh_mapping.public}"
    return {"host": ssh_mapping.ip, "port": ssh_mapping.public, "username": "root", "command": command}


def _global_networking(pod: Pod) -> dict[str, Json]:
    if not pod.spec.global_networking:
        return {"enabled": False}
    return {"enabled": True, "ip": "10.1.0.2", "internalDns": f"{pod.id}.runpod.internal"}


def _runtime(pod: Pod, now_ns: int) -> dict[str, Json] | None:
    if pod.status is not Status.RUNNING or pod.started_ns is None:
        return None
    return {
        "uptime": (now_ns - pod.started_ns) // timestamps.SECOND,
        "gpus": [{"util": 0, "memoryUtil": 0}] * pod.gpu_count,
        "cpu": {"util": 0},
        "memory": {"util": 0},
        "ports": [_port(mapping) for mapping in pod.mappings] if pod.ready else [],
    }


def _port(mapping: PortMapping) -> dict[str, Json]:
    is_tcp = mapping.protocol == "tcp"
    return {
        "private": mapping.private,
        "public": mapping.public if is_tcp else None,
        "type": mapping.protocol,
        "ip": mapping.ip if is_tcp else None,
    }


def volume_view(volume: Volume) -> dict[str, Json]:
    return {
        "id": volume.id,
        "name": volume.name,
        "size": volume.size_gb,
        "dataCenter": volume.data_center_id,
        "type": volume.type,
    }


def template_view(template: Template) -> dict[str, Json]:
    persistent = {"size": template.volume_gb, "path": template.mount_path}
    return {
        "id": template.id,
        "name": template.name,
        "image": template.image,
        "args": template.args,
        "disk": template.disk_gb,
        "env": template.env,
        "ports": template.ports,
        "registry": template.registry_id,
        "mounts": {"persistent": persistent} if template.volume_gb else {},
        "serverless": template.is_serverless,
        "public": template.is_public,
        "category": template.category,
        "startSsh": template.start_ssh,
        "startJupyter": template.start_jupyter,
        "allowedCudaVersions": template.allowed_cuda,
    }


def gpu_view(gpu: GpuType) -> dict[str, Json]:
    price = {cloud.lower(): price_usd(gpu.price_nano.get(cloud, 0)) for cloud in ("SECURE", "COMMUNITY")}
    if gpu.pool is not None:
        price["serverless"] = round(price_usd(max(gpu.price_nano.values())) * 1.5, 4)
    return {
        "id": gpu.id,
        "name": gpu.name,
        "pool": gpu.pool,
        "manufacturer": gpu.manufacturer,
        "memory": gpu.memory_gb,
        "secure": "SECURE" in gpu.price_nano,
        "community": "COMMUNITY" in gpu.price_nano,
        "price": price,
        "maxCount": {"secure": gpu.max_count["SECURE"], "community": gpu.max_count["COMMUNITY"]},
    }


def cpu_view(cpu: CpuFlavor) -> dict[str, Json]:
    price = price_usd(cpu.price_nano_per_vcpu)
    return {
        "id": cpu.id,
        "name": cpu.name,
        "group": cpu.group,
        "vcpu": {"min": 2, "max": 32},
        "ramGbPerVcpu": cpu.gb_per_vcpu,
        "price": {"securePerVcpu": price, "serverlessPerVcpu": price},
    }


def data_center_view(data_center: DataCenter) -> dict[str, Json]:
    return {
        "id": data_center.id,
        "name": data_center.name,
        "region": data_center.region,
        "globalNetwork": data_center.global_network,
        "networkVolumeTypes": data_center.volume_types,
        "compliance": ["SOC_2_TYPE_2", *(["GDPR"] if data_center.region == "EUROPE" else [])],
    }


def page(key: str, items: list[Json], cursor: str | None, limit: str | None) -> dict[str, Json]:
    """A list under its key, with `pagination`.

    Without a limit all items are on one page, as older clients need.

    Raises ApiError (INVALID) for a cursor of another server, or a limit below 1.
    """
    start = _offset(cursor)
    count = _limit(limit, len(items))
    end = start + count
    more = end < len(items)
    following = base64.urlsafe_b64encode(str(end).encode()).decode() if more else None
    return {key: items[start:end], "pagination": {"hasNextPage": more, "nextCursor": following}}


def _offset(cursor: str | None) -> int:
    try:
        return int(base64.urlsafe_b64decode(cursor)) if cursor else 0
    except (ValueError, binascii.Error):
        raise ApiError(
            ApiErrorKind.INVALID, "Request validation failed.", ("cursor: not a cursor of this API",)
        ) from None


def _limit(limit: str | None, everything: int) -> int:
    if limit is None:
        return everything
    if not limit.isdecimal() or int(limit) < 1:
        raise ApiError(
            ApiErrorKind.INVALID, "Request validation failed.", ("limit: must be an integer of at least 1",)
        )
    return int(limit)
