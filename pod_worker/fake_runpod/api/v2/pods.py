"""REST v2 pods: list, get, create, update, actions and terminate.

Translates request bodies into pod specs; the simulator does the rest.
"""

from __future__ import annotations

from dataclasses import replace

from fastapi import APIRouter, Request
from starlette.responses import Response

from pod_worker.fake_runpod.api.responses import json_response, no_content
from pod_worker.fake_runpod.api.v2.requests import Action, CreatePod, Mounts, UpdatePod, read_body
from pod_worker.fake_runpod.api.v2.views import page, pod_view
from pod_worker.fake_runpod.cloud.account import Template
from pod_worker.fake_runpod.cloud.pod import Pod, PodSpec
from pod_worker.fake_runpod.cloud.validation import check_container
from pod_worker.fake_runpod.errors import NO_INSTANCES, ApiError, ApiErrorKind
from pod_worker.fake_runpod.runtime import SimulatorRuntime

BLANK = Template("", "", "", start_ssh=False, start_jupyter=False)


def pod_routes(runtime: SimulatorRuntime) -> APIRouter:
    router = APIRouter()
    simulator = runtime.simulator

    def show(pod: Pod, status: int = 200) -> Response:
        return json_response(pod_view(pod, simulator.now_ns), status)

    @router.get("/pods")
    async def list_pods(request: Request) -> Response:
        views = [pod_view(pod, simulator.now_ns) for pod in simulator.pods()]
        query = request.query_params
        return json_response(page("pods", views, query.get("cursor"), query.get("limit")))

    @router.post("/pods")
    async def create_pod(request: Request) -> Response:
        body = read_body(CreatePod, await request.body())
        return show(simulator.create(spec_of(body, runtime), "v2"), 201)

    @router.get("/pods/{pod_id}")
    async def get_pod(pod_id: str) -> Response:
        return show(simulator.find(pod_id))

    @router.patch("/pods/{pod_id}")
    async def update_pod(pod_id: str, request: Request) -> Response:
        body = read_body(UpdatePod, await request.body())
        pod = simulator.find(pod_id)
        simulator.reconfigure(pod, changed_spec(pod.spec, body, runtime))
        return show(pod)

    @router.delete("/pods/{pod_id}")
    async def delete_pod(pod_id: str) -> Response:
        simulator.act(simulator.find(pod_id), "terminate")
        return no_content()

    @router.post("/pods/{pod_id}/action")
    async def pod_action(pod_id: str, request: Request) -> Response:
        pod = simulator.find(pod_id)
        action = read_body(Action, await request.body()).action
        simulator.act(pod, action)
        return no_content() if action == "terminate" else show(pod)

    return router


def spec_of(body: CreatePod, runtime: SimulatorRuntime) -> PodSpec:
    """The spec of a create request with the template's settings. Raises ApiError."""
    template = pod_template(body.templateId, runtime) if body.templateId else BLANK
    if not (body.image or template.image):
        raise ApiError(ApiErrorKind.INVALID, "Request validation failed.", ("$: missing property 'image'",))
    if (body.gpu is None) == (body.cpu is None):
        raise ApiError(ApiErrorKind.RULE, "exactly one of gpu or cpu must be set")
    spec = PodSpec(
        name=body.name,
        image=body.image or template.image,
        clouds=(body.cloud,),
        data_center_ids=tuple(body.dataCenterIds),
        args=template.args if body.args is None else body.args,
        start_cmd=template.start_cmd if body.args is None else (),
        entrypoint=template.entrypoint,
        disk_gb=body.disk or template.disk_gb,
        env=template.env | (body.env or {}),
        ports=template.ports if body.ports is None else tuple(body.ports),
        registry_id=body.registry or template.registry_id,
        global_networking=body.globalNetworking,
        start_ssh=body.startSsh or template.start_ssh,
        start_jupyter=body.startJupyter or template.start_jupyter,
    )
    _choose_compute(spec, body, template, runtime)
    _choose_mounts(spec, body.mounts, template)
    return spec


def pod_template(template_id: str, runtime: SimulatorRuntime) -> Template:
    template = runtime.resources.template(template_id)
    if template.is_serverless:
        raise ApiError(
            ApiErrorKind.INVALID, "Request validation failed.", ("$.templateId: is a serverless template",)
        )
    return template


def _choose_compute(spec: PodSpec, body: CreatePod, template: Template, runtime: SimulatorRuntime) -> None:
    if body.cpu is not None:
        spec.cpu_id, spec.vcpu_count, spec.gpu_count = body.cpu.id, body.cpu.vcpuCount, 0
        return
    assert body.gpu is not None
    if body.gpu.count is None and runtime.simulator.settings.omitted_gpu_count_fails:
        raise ApiError(ApiErrorKind.CAPACITY, NO_INSTANCES)
    spec.gpu_ids, spec.gpu_count = (body.gpu.id,), body.gpu.count or 1
    spec.min_cuda = body.gpu.minCudaVersion
    asked = body.gpu.allowedCudaVersions
    inherited = () if spec.min_cuda else template.allowed_cuda
    spec.allowed_cuda = inherited if asked is None else tuple(asked)


def _choose_mounts(spec: PodSpec, mounts: Mounts | None, template: Template) -> None:
    if mounts is None or (mounts.persistent is None and mounts.network is None):
        if template.volume_gb and not spec.is_cpu:
            spec.volume_gb, spec.mount_path = template.volume_gb, template.mount_path
        return
    if mounts.persistent and mounts.network:
        raise ApiError(ApiErrorKind.RULE, "mounts.persistent and mounts.network are mutually exclusive")
    if mounts.persistent:
        spec.volume_gb, spec.mount_path = mounts.persistent.size, mounts.persistent.path
    elif mounts.network:
        spec.network_volume_id, spec.mount_path = mounts.network[0].volumeId, mounts.network[0].path


def changed_spec(spec: PodSpec, body: UpdatePod, runtime: SimulatorRuntime) -> PodSpec:
    """The spec after a PATCH: only the fields of the request change. Raises ApiError."""
    sent = body.model_fields_set
    changed = replace(spec, env=dict(spec.env))
    if body.templateId:
        template = pod_template(body.templateId, runtime)
        changed = replace(
            changed, image=template.image, args=template.args, disk_gb=template.disk_gb, ports=template.ports
        )
        changed.env = template.env | (body.env or {})
    elif body.env is not None:
        changed.env = dict(body.env)
    changed.name = body.name or changed.name
    changed.image = body.image or changed.image
    changed.disk_gb = body.disk or changed.disk_gb
    changed.args = changed.args if body.args is None else body.args
    changed.ports = changed.ports if body.ports is None else tuple(body.ports)
    changed.registry_id = body.registry if "registry" in sent else changed.registry_id
    changed.locked = changed.locked if body.locked is None else body.locked
    if body.globalNetworking is not None:
        changed.global_networking = body.globalNetworking
    if body.mounts is not None:
        _change_mounts(changed, body.mounts)
    check_container(changed.name, changed.env, changed.ports)
    return changed


def _change_mounts(spec: PodSpec, mounts: Mounts) -> None:
    if mounts.persistent is not None:
        if not spec.volume_gb:
            raise ApiError(
                ApiErrorKind.RULE, "the mount kind is fixed at create: this pod has no persistent mount"
            )
        spec.volume_gb, spec.mount_path = mounts.persistent.size, mounts.persistent.path
    if mounts.network is not None:
        if [mount.volumeId for mount in mounts.network] != [spec.network_volume_id]:
            raise ApiError(ApiErrorKind.RULE, "mounts.network cannot be cleared, added or moved to another volume")
        spec.mount_path = mounts.network[0].path
