"""Pods, volumes and templates in REST v1's form.

v1 has three statuses; fields appear in both spellings where practice differs. v1 shows RUNNING from the creation
of a pod, whatever the container does, and still shows the old ports after a stop. Clients must handle both.
"""

from __future__ import annotations

from pod_worker.core.run import Json
from pod_worker.fake_runpod import timestamps
from pod_worker.fake_runpod.billing.money import price_usd
from pod_worker.fake_runpod.cloud.account import Account, Registry, Template, Volume
from pod_worker.fake_runpod.cloud.catalogue import Catalogue, GpuType
from pod_worker.fake_runpod.cloud.pod import Pod, PortMapping, Status
from pod_worker.fake_runpod.cloud.prices import SPOT_SHARE_PERCENT

SPOT_SHARE = SPOT_SHARE_PERCENT / 100


def desired_status(pod: Pod) -> str:
    return pod.status if pod.status in (Status.EXITED, Status.TERMINATED) else Status.RUNNING


def shown_mappings(pod: Pod) -> list[PortMapping]:
    """The ports that v1 and GraphQL show: none while booting, stale after a stop."""
    return pod.mappings if pod.ready or pod.status is not Status.RUNNING else []


def pod_view(pod: Pod, account: Account, catalogue: Catalogue) -> dict[str, Json]:
    spec, cost = pod.spec, price_usd(pod.rate_nano)
    mappings = shown_mappings(pod)
    started = pod.started_ns or pod.created_ns
    return {
        "id": pod.id,
        "name": spec.name,
        "desiredStatus": desired_status(pod),
        "image": spec.image,
        "imageName": spec.image,
        "env": spec.env,
        "ports": spec.ports,
        "publicIp": pod.public_ip if mappings else "",
        "portMappings": {str(m.private): m.public for m in mappings if m.protocol == "tcp"} or None,
        "costPerHr": cost,
        "adjustedCostPerHr": cost,
        "createdAt": timestamps.go_format(pod.created_ns),
        "lastStartedAt": timestamps.rfc3339(started),
        "lastStatusChange": pod.last_change,
        "interruptible": spec.interruptible,
        "locked": spec.locked,
        "machineId": pod.machine_id,
        "machine": _machine(pod, catalogue),
        "memoryInGb": pod.memory_gb,
        "vcpuCount": pod.vcpu_count,
        "containerDiskInGb": spec.disk_gb,
        "volumeInGb": spec.volume_gb,
        "volumeMountPath": spec.mount_path,
        "volumeEncrypted": False,
        "dockerEntrypoint": spec.entrypoint,
        "dockerStartCmd": spec.start_cmd or ([spec.args] if spec.args else []),
        "containerRegistryAuthId": spec.registry_id,
        "templateId": spec.template_id or "",
        "consumerUserId": account.id,
        "endpointId": None,
        "aiApiId": None,
        "cpuFlavorId": spec.cpu_id,
        "gpuCount": pod.gpu_count,
        "gpu": _gpu(pod, catalogue),
        "networkVolumeId": spec.network_volume_id,
        "savingsPlans": [],
        "slsVersion": 0,
    }


def _machine(pod: Pod, catalogue: Catalogue) -> dict[str, Json]:
    data_center = catalogue.data_centers[pod.data_center_id]
    return {
        "gpuTypeId": pod.gpu_id,
        "gpuDisplayName": catalogue.gpus[pod.gpu_id].name if pod.gpu_id else "",
        "dataCenterId": pod.data_center_id,
        "location": data_center.location,
        "secureCloud": pod.cloud == "SECURE",
        "supportPublicIp": True,
        "cpuCount": pod.vcpu_count,
        "minPodGpuCount": 1,
        "maxDownloadSpeedMbps": 1000,
        "maxUploadSpeedMbps": 1000,
        "diskThroughputMBps": 1000,
        "podHostId": pod.host_id,
        "costPerHr": price_usd(pod.rate_nano),
        "maintenanceStart": None,
        "maintenanceEnd": None,
        "maintenanceNote": None,
        "note": None,
    }


def _gpu(pod: Pod, catalogue: Catalogue) -> dict[str, Json] | None:
    if pod.gpu_id is None:
        return None
    gpu = catalogue.gpus[pod.gpu_id]
    return {"id": gpu.id, "count": pod.gpu_count, "displayName": gpu.name, **prices(gpu)}


def prices(gpu: GpuType) -> dict[str, Json]:
    """USD per GPU-hour under v1's and GraphQL's names.

    A price is null where the cloud does not offer the type.
    """
    secure, community = (gpu.price_nano.get(cloud) for cloud in ("SECURE", "COMMUNITY"))
    best = secure or community or 0

    def usd(nano: int | None, share: float = 1.0) -> float | None:
        return None if nano is None else round(price_usd(nano) * share, 4)

    return {
        "securePrice": usd(secure),
        "communityPrice": usd(community),
        "oneWeekPrice": usd(best, 0.95),
        "oneMonthPrice": usd(best, 0.9),
        "threeMonthPrice": usd(best, 0.85),
        "sixMonthPrice": usd(best, 0.8),
        "communitySpotPrice": usd(community, SPOT_SHARE),
        "secureSpotPrice": usd(secure, SPOT_SHARE),
    }


def volume_view(volume: Volume) -> dict[str, Json]:
    return {"id": volume.id, "name": volume.name, "size": volume.size_gb, "dataCenterId": volume.data_center_id}


def template_view(template: Template) -> dict[str, Json]:
    return {
        "id": template.id,
        "name": template.name,
        "imageName": template.image,
        "category": template.category,
        "containerDiskInGb": template.disk_gb,
        "containerRegistryAuthId": template.registry_id,
        "dockerEntrypoint": template.entrypoint,
        "dockerStartCmd": template.start_cmd,
        "env": template.env,
        "ports": template.ports,
        "isPublic": template.is_public,
        "isRunpod": template.is_runpod,
        "isServerless": template.is_serverless,
        "readme": template.readme,
        "volumeInGb": template.volume_gb,
        "volumeMountPath": template.mount_path,
        "earned": 0,
        "runtimeInMin": 0,
    }


def registry_view(registry: Registry) -> dict[str, Json]:
    return {"id": registry.id, "name": registry.name}
