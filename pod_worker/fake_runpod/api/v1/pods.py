"""REST v1 pods, under `/v1` and at the root.

v1 has bare arrays, flat bodies and its own errors for missing capacity. RunPod retired v1 in November 2026; it
is here for clients and accounts that still use it. A `gone` fault disables it.
"""

from __future__ import annotations

from dataclasses import replace

from fastapi import APIRouter, Request
from starlette.datastructures import QueryParams
from starlette.responses import Response

from pod_worker.core.run import Json
from pod_worker.fake_runpod.api.responses import json_response, no_content
from pod_worker.fake_runpod.api.v1.billing import billing_routes
from pod_worker.fake_runpod.api.v1.requests import CreatePod, PodSettings, UpdatePod, read_body
from pod_worker.fake_runpod.api.v1.resources import v1_resource_routes
from pod_worker.fake_runpod.api.v1.views import desired_status, pod_view, volume_view
from pod_worker.fake_runpod.cloud.pod import Pod, PodSpec, Status
from pod_worker.fake_runpod.cloud.validation import check_container
from pod_worker.fake_runpod.errors import ApiError, ApiErrorKind
from pod_worker.fake_runpod.runtime import SimulatorRuntime

DEFAULT_PORTS = ("8888/http", "22/tcp")


def v1_routes(runtime: SimulatorRuntime) -> APIRouter:
    router = APIRouter()
    for routes in (_pod_routes, v1_resource_routes, billing_routes):
        router.include_router(routes(runtime))
    return router


def _pod_routes(runtime: SimulatorRuntime) -> APIRouter:
    router, simulator = APIRouter(prefix="/pods"), runtime.simulator

    def view(pod: Pod, query: QueryParams | None = None) -> dict[str, Json]:
        shown = pod_view(pod, simulator.account, simulator.catalogue)
        volume = simulator.account.volumes.get(pod.spec.network_volume_id or "")
        if volume is not None and query is not None and query.get("includeNetworkVolume") == "true":
            shown["networkVolume"] = volume_view(volume)
        return shown

    @router.get("")
    async def list_pods(request: Request) -> Response:
        query = request.query_params
        return json_response([view(pod, query) for pod in simulator.pods() if _is_wanted(pod, query)])

    @router.post("")
    async def create_pod(request: Request) -> Response:
        spec = spec_of(read_body(CreatePod, await request.body()), runtime)
        return json_response(view(simulator.create(spec, "v1")), 201)

    @router.get("/{pod_id}")
    async def get_pod(pod_id: str, request: Request) -> Response:
        return json_response(view(simulator.find(pod_id), request.query_params))

    @router.delete("/{pod_id}")
    async def delete_pod(pod_id: str) -> Response:
        simulator.act(simulator.find(pod_id), "terminate")
        return no_content()

    @router.patch("/{pod_id}")
    @router.post("/{pod_id}/update")
    async def update_pod(pod_id: str, request: Request) -> Response:
        body = read_body(UpdatePod, await request.body())
        pod = simulator.find(pod_id)
        simulator.reconfigure(pod, _changed(pod.spec, body))
        return json_response(view(pod))

    @router.post("/{pod_id}/{action}")
    async def pod_action(pod_id: str, action: str) -> Response:
        pod = simulator.find(pod_id)
        match action:
            case "start" | "stop":
                # v1 accepts an action whose result is already in place.
                if action in pod.actions:
                    simulator.act(pod, action)
            case "reset" | "restart":
                if pod.status is Status.RUNNING:
                    simulator.restart(pod)
            case _:
                raise ApiError(ApiErrorKind.NOT_FOUND, "not found")
        return json_response(view(pod))

    return router


def spec_of(body: CreatePod, runtime: SimulatorRuntime) -> PodSpec:
    """The spec of a create request, with v1's defaults and the template's settings.

    Raises ApiError.
    """
    spec = PodSpec(name="my pod", image="", clouds=(body.cloudType,), ports=DEFAULT_PORTS, volume_gb=20)
    if body.templateId:
        template = runtime.resources.template(body.templateId)
        spec = replace(
            spec,
            image=template.image,
            start_cmd=template.start_cmd,
            entrypoint=template.entrypoint,
            disk_gb=template.disk_gb,
            volume_gb=template.volume_gb,
            mount_path=template.mount_path,
            env=dict(template.env),
            ports=template.ports,
            registry_id=template.registry_id,
            template_id=template.id,
        )
    spec = _changed(spec, body)
    if not spec.image:
        raise ApiError(ApiErrorKind.INVALID, "imageName or templateId is required")
    spec.data_center_ids = tuple(body.dataCenterIds or ())
    spec.network_volume_id = body.networkVolumeId or None
    spec.interruptible = body.interruptible
    spec.allowed_cuda = tuple(body.allowedCudaVersions or ())
    spec.start_ssh = True
    if body.computeType == "CPU":
        spec.cpu_id = (body.cpuFlavorIds or ["cpu3c"])[0]
        spec.vcpu_count, spec.gpu_count, spec.volume_gb = body.vcpuCount, 0, 0
    else:
        spec.gpu_ids = tuple(body.gpuTypeIds or _offered(runtime, body.cloudType))
        spec.gpu_count = body.gpuCount
    if spec.network_volume_id:
        spec.volume_gb = 0
    return spec


def _offered(runtime: SimulatorRuntime, cloud: str) -> list[str]:
    """All GPU types of the cloud, cheapest first: the default without gpuTypeIds."""
    priced = [
        (gpu.price_nano[cloud], gpu.id)
        for gpu in runtime.simulator.catalogue.gpus.values()
        if cloud in gpu.price_nano
    ]
    return [gpu_id for _, gpu_id in sorted(priced)]


def _changed(spec: PodSpec, body: PodSettings) -> PodSpec:
    """The spec with the settings of the request applied. Raises ApiError."""

    def listed(sent: list[str] | None, kept: tuple[str, ...]) -> tuple[str, ...]:
        return kept if sent is None else tuple(sent)

    changed = replace(
        spec,
        name=body.name or spec.name,
        image=body.imageName or spec.image,
        registry_id=body.containerRegistryAuthId or spec.registry_id,
        disk_gb=spec.disk_gb if body.containerDiskInGb is None else body.containerDiskInGb,
        volume_gb=spec.volume_gb if body.volumeInGb is None else body.volumeInGb,
        mount_path=body.volumeMountPath or spec.mount_path,
        env=dict(spec.env if body.env is None else body.env),
        ports=listed(body.ports, spec.ports),
        start_cmd=listed(body.dockerStartCmd, spec.start_cmd),
        entrypoint=listed(body.dockerEntrypoint, spec.entrypoint),
        locked=spec.locked if body.locked is None else body.locked,
    )
    if body.dockerStartCmd:
        changed.args = ""
    if body.globalNetworking is not None:
        changed.global_networking = body.globalNetworking
    check_container(changed.name, changed.env, changed.ports)
    return changed


def _is_wanted(pod: Pod, query: QueryParams) -> bool:
    """v1's list filters; several values of one filter are alternatives."""
    actual = {
        "computeType": "CPU" if pod.spec.is_cpu else "GPU",
        "cpuFlavorId": pod.spec.cpu_id,
        "dataCenterId": pod.data_center_id,
        "desiredStatus": desired_status(pod),
        "gpuTypeId": pod.gpu_id,
        "id": pod.id,
        "imageName": pod.spec.image,
        "name": pod.spec.name,
        "networkVolumeId": pod.spec.network_volume_id,
        "templateId": pod.spec.template_id,
        "endpointId": None,
    }
    asked = {name: query.getlist(name) for name in actual if name in query}
    return all(actual[name] in wanted for name, wanted in asked.items())
