"""REST v1 network volumes, templates and registry credentials.

Serverless endpoints are an empty list.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from pod_worker.fake_runpod.api.responses import json_response, no_content
from pod_worker.fake_runpod.api.v1.requests import (
    CreateRegistry,
    CreateTemplate,
    CreateVolume,
    TemplateSettings,
    UpdateTemplate,
    UpdateVolume,
    read_body,
)
from pod_worker.fake_runpod.api.v1.views import registry_view, template_view, volume_view
from pod_worker.fake_runpod.cloud.account import Template
from pod_worker.fake_runpod.cloud.resources import public_templates
from pod_worker.fake_runpod.cloud.validation import check_container
from pod_worker.fake_runpod.errors import not_found
from pod_worker.fake_runpod.runtime import SimulatorRuntime


def resource_routes(runtime: SimulatorRuntime) -> APIRouter:
    router = APIRouter()
    for routes in (_volume_routes(runtime), _template_routes(runtime), _registry_routes(runtime)):
        router.include_router(routes)

    @router.get("/endpoints")
    async def list_endpoints() -> Response:
        return json_response([])

    @router.get("/endpoints/{endpoint_id}")
    async def get_endpoint(endpoint_id: str) -> Response:
        raise not_found("endpoint")

    return router


def _volume_routes(runtime: SimulatorRuntime) -> APIRouter:
    router, resources = APIRouter(prefix="/networkvolumes"), runtime.resources

    @router.get("")
    async def list_volumes() -> Response:
        return json_response([volume_view(volume) for volume in resources.account.volumes.values()])

    @router.post("")
    async def create_volume(request: Request) -> Response:
        body = read_body(CreateVolume, await request.body())
        return json_response(volume_view(resources.create_volume(body.name, body.size, body.dataCenterId, None)))

    @router.get("/{volume_id}")
    async def get_volume(volume_id: str) -> Response:
        return json_response(volume_view(resources.volume(volume_id)))

    @router.patch("/{volume_id}")
    @router.post("/{volume_id}/update")
    async def update_volume(volume_id: str, request: Request) -> Response:
        body = read_body(UpdateVolume, await request.body())
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
        found = list(resources.account.templates.values())
        if request.query_params.get("includeRunpodTemplates") == "true":
            found += public_templates(runtime.simulator.catalogue)
        return json_response([template_view(template) for template in found])

    @router.post("")
    async def create_template(request: Request) -> Response:
        body = read_body(CreateTemplate, await request.body())
        template = Template("", body.name, body.imageName, category=body.category, is_serverless=body.isServerless)
        _apply(template, body)
        return json_response(template_view(resources.add_template(template)))

    @router.get("/{template_id}")
    async def get_template(template_id: str) -> Response:
        return json_response(template_view(resources.template(template_id)))

    @router.patch("/{template_id}")
    @router.post("/{template_id}/update")
    async def update_template(template_id: str, request: Request) -> Response:
        body = read_body(UpdateTemplate, await request.body())
        template = resources.own_template(template_id)
        _apply(template, body)
        template.name = body.name or template.name
        template.image = body.imageName or template.image
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
        "disk_gb": body.containerDiskInGb,
        "registry_id": body.containerRegistryAuthId,
        "entrypoint": None if body.dockerEntrypoint is None else tuple(body.dockerEntrypoint),
        "start_cmd": None if body.dockerStartCmd is None else tuple(body.dockerStartCmd),
        "env": body.env,
        "is_public": body.isPublic,
        "ports": None if body.ports is None else tuple(body.ports),
        "readme": body.readme,
        "volume_gb": body.volumeInGb,
        "mount_path": body.volumeMountPath,
    }
    for name, value in renamed.items():
        if value is not None:
            setattr(template, name, value)


def _registry_routes(runtime: SimulatorRuntime) -> APIRouter:
    router, resources = APIRouter(prefix="/containerregistryauth"), runtime.resources

    @router.get("")
    async def list_registries() -> Response:
        return json_response([registry_view(registry) for registry in resources.account.registries.values()])

    @router.post("")
    async def create_registry(request: Request) -> Response:
        body = read_body(CreateRegistry, await request.body())
        return json_response(registry_view(resources.create_registry(body.name)))

    @router.get("/{registry_id}")
    async def get_registry(registry_id: str) -> Response:
        return json_response(registry_view(resources.registry(registry_id)))

    @router.delete("/{registry_id}")
    async def delete_registry(registry_id: str) -> Response:
        resources.delete_registry(registry_id)
        return no_content()

    return router
