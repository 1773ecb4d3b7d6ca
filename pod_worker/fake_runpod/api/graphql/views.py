"""Pods, GPU types and the account in GraphQL's form.

The executor selects fields from these dicts. REST's objects are strings here: `env` is ["K=V"], `ports` is
comma-separated. `uptimeSeconds` is always 0, as at RunPod; the actual value is `runtime.uptimeInSeconds`.
"""

from __future__ import annotations

from collections.abc import Mapping

from pod_worker.core.run import Json
from pod_worker.fake_runpod import timestamps
from pod_worker.fake_runpod.api.v1.views import SPOT_SHARE, desired_status, prices, shown_mappings
from pod_worker.fake_runpod.billing.money import price_usd
from pod_worker.fake_runpod.cloud.account import Template
from pod_worker.fake_runpod.cloud.catalogue import DataCenter, GpuType
from pod_worker.fake_runpod.cloud.pod import Pod, PortMapping, Status
from pod_worker.fake_runpod.cloud.simulator import CloudSimulator

GRADES = ("NONE", "LOW", "MEDIUM", "HIGH")
CUDA_CORES = {"NVIDIA GeForce RTX 4090": 16384, "NVIDIA H100 80GB HBM3": 16896, "NVIDIA A100-SXM4-80GB": 6912}


def pod_view(pod: Pod, simulator: CloudSimulator) -> dict[str, Json]:
    spec = pod.spec
    return {
        "id": pod.id,
        "name": spec.name,
        "desiredStatus": desired_status(pod),
        "imageName": spec.image,
        "env": [f"{name}={value}" for name, value in spec.env.items()],
        "ports": ",".join(spec.ports) or None,
        "port": None,
        "podType": "INTERRUPTABLE" if spec.interruptible else "RESERVED",
        "dockerArgs": spec.args or " ".join(spec.start_cmd),
        "dockerId": None,
        "gpuCount": pod.gpu_count,
        "memoryInGb": pod.memory_gb,
        "vcpuCount": pod.vcpu_count,
        "containerDiskInGb": spec.disk_gb,
        "volumeInGb": spec.volume_gb,
        "volumeMountPath": spec.mount_path,
        "networkVolumeId": spec.network_volume_id,
        "templateId": spec.template_id,
        "costPerHr": price_usd(pod.rate_nano),
        "adjustedCostPerHr": price_usd(pod.rate_nano),
        "machineId": pod.machine_id,
        "consumerUserId": simulator.account.id,
        "createdAt": timestamps.rfc3339(pod.created_ns),
        "lastStartedAt": timestamps.rfc3339(pod.started_ns or pod.created_ns),
        "lastStatusChange": pod.last_change,
        "locked": spec.locked,
        "uptimeSeconds": 0,
        "runtime": _runtime(pod, simulator.now_ns),
        "machine": _machine(pod, simulator),
    }


def _runtime(pod: Pod, now_ns: int) -> dict[str, Json] | None:
    if pod.status is not Status.RUNNING or not pod.ready or pod.started_ns is None:
        return None
    gpus = [
        {"id": f"GPU-{pod.machine_id}-{i}", "gpuUtilPercent": 0, "memoryUtilPercent": 0}
        for i in range(pod.gpu_count)
    ]
    return {
        "uptimeInSeconds": (now_ns - pod.started_ns) // timestamps.SECOND,
        "ports": [_port(mapping) for mapping in shown_mappings(pod)],
        "gpus": gpus,
        "container": {"cpuPercent": 0, "memoryPercent": 0},
    }


def _port(mapping: PortMapping) -> dict[str, Json]:
    return {
        "ip": mapping.ip,
        "isIpPublic": mapping.protocol == "tcp",
        "privatePort": mapping.private,
        "publicPort": mapping.public,
        "type": mapping.protocol,
    }


def _machine(pod: Pod, simulator: CloudSimulator) -> dict[str, Json]:
    return {
        "podHostId": pod.host_id,
        "gpuTypeId": pod.gpu_id,
        "gpuDisplayName": simulator.catalogue.gpus[pod.gpu_id].name if pod.gpu_id else None,
        "location": simulator.catalogue.data_centers[pod.data_center_id].location,
        "dataCenterId": pod.data_center_id,
        "secureCloud": pod.cloud == "SECURE",
        "costPerHr": price_usd(pod.rate_nano),
    }


def gpu_view(gpu: GpuType, simulator: CloudSimulator) -> dict[str, Json]:
    def lowest_price(info: object, input: Mapping[str, Json] | None = None) -> dict[str, Json]:
        return lowest_price_view(gpu, simulator, input or {})

    return {
        "id": gpu.id,
        "displayName": gpu.name,
        "manufacturer": "Nvidia" if gpu.manufacturer == "NVIDIA" else gpu.manufacturer,
        "memoryInGb": gpu.memory_gb,
        "cudaCores": CUDA_CORES.get(gpu.id, 0),
        "maxGpuCount": max(gpu.max_count.values()),
        "maxGpuCountSecureCloud": gpu.max_count["SECURE"],
        "maxGpuCountCommunityCloud": gpu.max_count["COMMUNITY"],
        "secureCloud": "SECURE" in gpu.price_nano,
        "communityCloud": "COMMUNITY" in gpu.price_nano,
        **prices(gpu),
        "lowestPrice": lowest_price,
    }


def lowest_price_view(gpu: GpuType, simulator: CloudSimulator, filters: Mapping[str, Json]) -> dict[str, Json]:
    """The cheapest cloud with stock for the filters.

    Without stock all prices are null.
    """
    clouds = {None: ("COMMUNITY", "SECURE"), True: ("SECURE",), False: ("COMMUNITY",)}[filters.get("secureCloud")]
    cuda = [v for v in simulator.catalogue.cuda_versions if v in (filters.get("allowedCudaVersions") or [v])]
    wanted = filters.get("dataCenterId")
    places = (wanted,) if wanted else simulator.catalogue.data_center_ids
    count = filters.get("gpuCount") or 1
    grade = max(
        (stock_grade(simulator, gpu, places, cloud, count) for cloud in clouds if cloud in gpu.price_nano),
        key=GRADES.index,
        default="NONE",
    )
    is_there = grade != "NONE" and bool(cuda)
    price = price_usd(min((gpu.price_nano[cloud] for cloud in clouds if cloud in gpu.price_nano), default=0))
    return {
        "gpuName": gpu.name,
        "gpuTypeId": gpu.id,
        "minimumBidPrice": round(price * SPOT_SHARE, 4) if is_there else None,
        "uninterruptablePrice": price if is_there else None,
        "minMemory": 62,
        "minVcpu": 16,
        "stockStatus": grade.capitalize() if is_there else None,
        "maxGpuCount": max(gpu.max_count[cloud] for cloud in clouds),
        "availableGpuCounts": [n for n in (1, 2, 4, 8) if n <= max(gpu.max_count.values())] if is_there else [],
        "gpuTypeCudaVersions": [
            {"cudaVersion": v, "availability": "AVAILABLE" if is_there else "UNAVAILABLE"} for v in cuda
        ],
    }


def stock_grade(simulator: CloudSimulator, gpu: GpuType, places: tuple[str, ...], cloud: str, count: int) -> str:
    is_unavailable = simulator.faults.advertised_shortage(simulator.now_ns)
    known = (index for index in places if index in simulator.catalogue.data_centers)
    return max(
        (simulator.placer.stock.level(gpu.id, index, cloud, count, is_unavailable) for index in known),
        key=GRADES.index,
        default="NONE",
    )


def data_center_view(dc: DataCenter, simulator: CloudSimulator) -> dict[str, Json]:
    def gpu_availability(info: object, input: Mapping[str, Json] | None = None) -> list[dict[str, Json]]:
        offered = [gpu for gpu in simulator.catalogue.gpus.values() if "SECURE" in gpu.price_nano]
        graded = [(gpu, stock_grade(simulator, gpu, (dc.id,), "SECURE", 1)) for gpu in offered]
        return [
            {
                "id": f"{dc.id}-{gpu.id}",
                "gpuTypeId": gpu.id,
                "displayName": gpu.name,
                "available": grade != "NONE",
                "stockStatus": None if grade == "NONE" else grade.capitalize(),
            }
            for gpu, grade in graded
        ]

    return {
        "id": dc.id,
        "name": dc.id,
        "location": dc.location,
        "listed": True,
        "storageSupport": bool(dc.volume_types),
        "gpuAvailability": gpu_availability,
    }


def user_view(simulator: CloudSimulator) -> dict[str, Json]:
    account = simulator.account
    return {
        "id": account.id,
        "email": account.email,
        "pubKey": "\n\n".join(account.ssh_keys),
        "clientBalance": price_usd(simulator.billing.balance_nano(simulator.now_ns)),
        "currentSpendPerHr": simulator.billing.spend_usd_per_hour,
        "spendLimit": int(account.spend_limit_usd_per_hour),
        "notifyPodsStale": True,
        "notifyPodsGeneral": True,
        "notifyLowBalance": True,
        "pods": lambda info: [pod_view(pod, simulator) for pod in simulator.pods()],
        "networkVolumes": [
            {"id": v.id, "name": v.name, "size": v.size_gb, "dataCenterId": v.data_center_id}
            for v in account.volumes.values()
        ],
        "podTemplates": [template_view(template) for template in account.templates.values()],
        "containerRegistryCreds": [{"id": r.id, "name": r.name} for r in account.registries.values()],
        "endpoints": [],
    }


def template_view(template: Template) -> dict[str, Json]:
    return {
        "id": template.id,
        "name": template.name,
        "imageName": template.image,
        "dockerArgs": template.args,
        "containerDiskInGb": template.disk_gb,
        "volumeInGb": template.volume_gb,
        "volumeMountPath": template.mount_path,
        "ports": ",".join(template.ports),
        "env": [{"key": name, "value": value} for name, value in template.env.items()],
        "isServerless": template.is_serverless,
        "isPublic": template.is_public,
        "startSsh": template.start_ssh,
        "startJupyter": template.start_jupyter,
    }
