"""REST v2 network volumes, templates, registry credentials and account SSH keys."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from pod_worker.core.run import Json
from pod_worker.fake_runpod.api.resource_routes import Resource, Surface, apply_settings, resource_routes
from pod_worker.fake_runpod.api.responses import json_response
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
from pod_worker.fake_runpod.cloud.account import Account, Registry, Template, Volume
from pod_worker.fake_runpod.cloud.resources import AccountResources
from pod_worker.fake_runpod.errors import ApiError, ApiErrorKind
from pod_worker.fake_runpod.runtime import SimulatorRuntime


def v2_resource_routes(runtime: SimulatorRuntime) -> APIRouter:
    router, resources = APIRouter(), runtime.resources
    for resource in (_volumes(resources), _templates(resources), _registries(resources)):
        router.include_router(resource_routes(resource, Surface(201, _list_response)))
    router.include_router(_key_routes(runtime.simulator.account))
    return router


def _list_response(request: Request, key: str, views: list[Json]) -> Response:
    query = request.query_params
    return json_response(page(key, views, query.get("cursor"), query.get("limit")))


def _volumes(resources: AccountResources) -> Resource[Volume]:
    def create(raw: bytes) -> Volume:
        body = read_body(CreateVolume, raw)
        return resources.create_volume(body.name, body.size, body.dataCenter, body.type)

    def update(volume_id: str, raw: bytes) -> Volume:
        body = read_body(UpdateVolume, raw)
        if not body.model_fields_set:
            violation = "$: at least one property is required"
            raise ApiError(ApiErrorKind.INVALID, "Request validation failed.", (violation,))
        return resources.update_volume(volume_id, body.name, body.size)

    return Resource(
        "/network-volumes",
        "networkVolumes",
        volume_view,
        lambda request: resources.account.volumes.values(),
        resources.volume,
        create,
        resources.delete_volume,
        update,
    )


def _templates(resources: AccountResources) -> Resource[Template]:
    def create(raw: bytes) -> Template:
        body = read_body(CreateTemplate, raw)
        template = Template(id="", name=body.name, image=body.image)
        _apply(template, body)
        return resources.add_template(template)

    def update(template_id: str, raw: bytes) -> Template:
        body = read_body(UpdateTemplate, raw)
        template = resources.own_template(template_id)
        _apply(template, body)
        template.name = body.name or template.name
        return template

    return Resource(
        "/templates",
        "templates",
        template_view,
        lambda request: resources.account.templates.values(),
        resources.template,
        create,
        resources.delete_template,
        update,
    )


def _apply(template: Template, body: TemplateSettings) -> None:
    apply_settings(
        template,
        image=body.image,
        args=body.args,
        disk_gb=body.disk,
        env=body.env,
        ports=body.ports,
        category=body.category,
        is_public=body.public,
        is_serverless=body.serverless,
        start_ssh=body.startSsh,
        start_jupyter=body.startJupyter,
        allowed_cuda=body.allowedCudaVersions,
    )
    if "registry" in body.model_fields_set:
        template.registry_id = body.registry
    if body.mounts is not None and body.mounts.persistent is not None:
        template.volume_gb, template.mount_path = body.mounts.persistent.size, body.mounts.persistent.path


def _registries(resources: AccountResources) -> Resource[Registry]:
    return Resource(
        "/registries",
        "registries",
        lambda registry: {"id": registry.id, "name": registry.name},
        lambda request: resources.account.registries.values(),
        resources.registry,
        lambda raw: resources.create_registry(read_body(CreateRegistry, raw).name),
        resources.delete_registry,
    )


def _key_routes(account: Account) -> APIRouter:
    router = APIRouter(prefix="/account")

    @router.get("/ssh-keys")
    async def get_keys() -> Response:
        return json_response({"keys": account.ssh_keys})

    @router.put("/ssh-keys")
    async def put_keys(request: Request) -> Response:
        account.ssh_keys[:] = read_body(SshKeys, await request.body()).keys
        return json_response({"keys": account.ssh_keys})

    return router
