"""REST v1 network volumes, templates and registry credentials.

Serverless endpoints are an empty list.
"""

from __future__ import annotations

from collections.abc import Iterable

from fastapi import APIRouter, Request
from starlette.responses import Response

from pod_worker.fake_runpod.api.resource_routes import Resource, Surface, apply_settings, resource_routes
from pod_worker.fake_runpod.api.responses import json_response
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
from pod_worker.fake_runpod.cloud.account import Registry, Template, Volume
from pod_worker.fake_runpod.cloud.catalogue import Catalogue
from pod_worker.fake_runpod.cloud.resources import AccountResources, public_templates
from pod_worker.fake_runpod.errors import not_found
from pod_worker.fake_runpod.runtime import SimulatorRuntime

V1 = Surface(200, lambda request, key, views: json_response(views), has_update_action=True)


def v1_resource_routes(runtime: SimulatorRuntime) -> APIRouter:
    router, resources = APIRouter(), runtime.resources
    for resource in (
        _volumes(resources),
        _templates(resources, runtime.simulator.catalogue),
        _registries(resources),
    ):
        router.include_router(resource_routes(resource, V1))

    @router.get("/endpoints")
    async def list_endpoints() -> Response:
        return json_response([])

    @router.get("/endpoints/{endpoint_id}")
    async def get_endpoint(endpoint_id: str) -> Response:
        raise not_found("endpoint")

    return router


def _volumes(resources: AccountResources) -> Resource[Volume]:
    def create(raw: bytes) -> Volume:
        body = read_body(CreateVolume, raw)
        return resources.create_volume(body.name, body.size, body.dataCenterId, None)

    def update(volume_id: str, raw: bytes) -> Volume:
        body = read_body(UpdateVolume, raw)
        return resources.update_volume(volume_id, body.name, body.size)

    return Resource(
        "/networkvolumes",
        "networkVolumes",
        volume_view,
        lambda request: resources.account.volumes.values(),
        resources.volume,
        create,
        resources.delete_volume,
        update,
    )


def _templates(resources: AccountResources, catalogue: Catalogue) -> Resource[Template]:
    def listed(request: Request) -> Iterable[Template]:
        is_public_wanted = request.query_params.get("includeRunpodTemplates") == "true"
        return [*resources.account.templates.values(), *(public_templates(catalogue) if is_public_wanted else ())]

    def create(raw: bytes) -> Template:
        body = read_body(CreateTemplate, raw)
        template = Template("", body.name, body.imageName, category=body.category, is_serverless=body.isServerless)
        _apply(template, body)
        return resources.add_template(template)

    def update(template_id: str, raw: bytes) -> Template:
        body = read_body(UpdateTemplate, raw)
        template = resources.own_template(template_id)
        _apply(template, body)
        template.name = body.name or template.name
        template.image = body.imageName or template.image
        return template

    return Resource(
        "/templates",
        "templates",
        template_view,
        listed,
        resources.template,
        create,
        resources.delete_template,
        update,
    )


def _apply(template: Template, body: TemplateSettings) -> None:
    apply_settings(
        template,
        disk_gb=body.containerDiskInGb,
        registry_id=body.containerRegistryAuthId,
        entrypoint=body.dockerEntrypoint,
        start_cmd=body.dockerStartCmd,
        env=body.env,
        is_public=body.isPublic,
        ports=body.ports,
        readme=body.readme,
        volume_gb=body.volumeInGb,
        mount_path=body.volumeMountPath,
    )


def _registries(resources: AccountResources) -> Resource[Registry]:
    return Resource(
        "/containerregistryauth",
        "registries",
        registry_view,
        lambda request: resources.account.registries.values(),
        resources.registry,
        lambda raw: resources.create_registry(read_body(CreateRegistry, raw).name),
        resources.delete_registry,
    )
