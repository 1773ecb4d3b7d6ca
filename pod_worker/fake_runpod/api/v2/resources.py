"""REST v2 network volumes, templates, registry credentials and account SSH keys."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from pod_worker.core.run import Json
from pod_worker.fake_runpod.api.responses import json_response, no_content
from pod_worker.fake_runpod.api.v2.requests import (
    CreateRegistry,
    CreateTemplate,
    CreateVolume,
    SshKeys,
    TemplateSettings,
    UpdateTemplate,
    UpdateVolume,
    read_body,
)
from pod_worker.fake_runpod.api.v2.views import page, template_view, volume_view
from pod_worker.fake_runpod.cloud.account import Registry, Template
from pod_worker.fake_runpod.cloud.validation import check_container
from pod_worker.fake_runpod.errors import ApiError, ApiErrorKind
from pod_worker.fake_runpod.runtime import SimulatorRuntime


def resource_routes(runtime: SimulatorRuntime) -> APIRouter:
    router = APIRouter()
    for routes in (
        _volume_routes(runtime),
        _template_routes(runtime),
        _registry_routes(runtime),
        _key_routes(runtime),
    ):
        router.include_router(routes)
    return router


def _listed(request: Request, key: str, views: list[Json]) -> Response:
    query = request.query_params
    return json_response(page(key, views, query.get("cursor"), query.get("limit")))


def _volume_routes(runtime: SimulatorRuntime) -> APIRouter:
    router, resources = APIRouter(prefix="/network-volumes"), runtime.resources

    @router.get("")
    async def list_volumes(request: Request) -> Response:
        return _listed(request, "networkVolumes", [volume_view(v) for v in resources.account.volumes.values()])

    @router.post("")
    async def create_volume(request: Request) -> Response:
        body = read_body(CreateVolume, await request.body())
        volume = resources.create_volume(body.name, body.size, body.dataCenter, body.type)
        return json_response(volume_view(volume), 201)

    @router.get("/{volume_id}")
    async def get_volume(volume_id: str) -> Response:
        return json_response(volume_view(resources.volume(volume_id)))

    @router.patch("/{volume_id}")
    async def update_volume(volume_id: str, request: Request) -> Response:
        body = read_body(UpdateVolume, await request.body())
        if not body.model_fields_set:
            raise ApiError(
                ApiErrorKind.INVALID, "Request validation failed.", ("$: at least one property is required",)
            )
        return json_response(volume_view(resources.update_volume(volume_id, body.name, body.size)))

    @router.delete("/{volume_id}")
    async def delete_volume(volume_id: str) -> Response:
        resources.delete_volume(volume_id)
        return no_content()

    return router


def _template_routes(runtime: SimulatorRuntime) -> APIRouter:
    router, resources = APIRouter(prefix="/templates"), runtime.resources

    @router.get("")
    async def list_templates(request: Request) -> Response:
        return _listed(request, "templates", [template_view(t) for t in resources.account.templates.values()])

    @router.post("")
    async def create_template(request: Request) -> Response:
        body = read_body(CreateTemplate, await request.body())
        template = Template(id="", name=body.name, image=body.image)
        _apply(template, body)
        return json_response(template_view(resources.add_template(template)), 201)

    @router.get("/{template_id}")
    async def get_template(template_id: str) -> Response:
        return json_response(template_view(resources.template(template_id)))

    @router.patch("/{template_id}")
    async def update_template(template_id: str, request: Request) -> Response:
        body = read_body(UpdateTemplate, await request.body())
        template = resources.own_template(template_id)
        _apply(template, body)
        template.name = body.name or template.name
        return json_response(template_view(template))

    @router.delete("/{template_id}")
    async def delete_template(template_id: str) -> Response:
        resources.delete_template(template_id)
        return no_content()

    return router


def _apply(template: Template, body: TemplateSettings) -> None:
    """Write the settings that were sent into the template."""
    check_container(template.name, body.env or {}, tuple(body.ports or ()))
    renamed = {
        "image": body.image,
        "args": body.args,
        "disk_gb": body.disk,
        "env": body.env,
        "ports": None if body.ports is None else tuple(body.ports),
        "category": body.category,
        "is_public": body.public,
        "is_serverless": body.serverless,
        "start_ssh": body.startSsh,
        "start_jupyter": body.startJupyter,
        "allowed_cuda": None if body.allowedCudaVersions is None else tuple(body.allowedCudaVersions),
    }
    for name, value in renamed.items():
        if value is not None:
            setattr(template, name, value)
    if "registry" in body.model_fields_set:
        template.registry_id = body.registry
    if body.mounts is not None and body.mounts.persistent is not None:
        template.volume_gb, template.mount_path = body.mounts.persistent.size, body.mounts.persistent.path


def _registry_routes(runtime: SimulatorRuntime) -> APIRouter:
    router, resources = APIRouter(prefix="/registries"), runtime.resources

    def show(registry: Registry) -> dict[str, Json]:
        return {"id": registry.id, "name": registry.name}

    @router.get("")
    async def list_registries(request: Request) -> Response:
        return _listed(request, "registries", [show(r) for r in resources.account.registries.values()])

    @router.post("")
    async def create_registry(request: Request) -> Response:
        body = read_body(CreateRegistry, await request.body())
        return json_response(show(resources.create_registry(body.name)), 201)

    @router.get("/{registry_id}")
    async def get_registry(registry_id: str) -> Response:
        return json_response(show(resources.registry(registry_id)))

    @router.delete("/{registry_id}")
    async def delete_registry(registry_id: str) -> Response:
        resources.delete_registry(registry_id)
        return no_content()

    return router


def _key_routes(runtime: SimulatorRuntime) -> APIRouter:
    router, account = APIRouter(prefix="/account"), runtime.simulator.account

    @router.get("/ssh-keys")
    async def get_keys() -> Response:
        return json_response({"keys": account.ssh_keys})

    @router.put("/ssh-keys")
    async def put_keys(request: Request) -> Response:
        account.ssh_keys[:] = read_body(SshKeys, await request.body()).keys
        return json_response({"keys": account.ssh_keys})

    return router
