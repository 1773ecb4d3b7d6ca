"""The routes of account resources, the same for REST v1 and v2.

A surface gives each resource its operations and its `ListStyle`; this module makes the routes from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from fastapi import APIRouter, Request
from starlette.responses import Response

from pod_worker.core.run import Json
from pod_worker.fake_runpod.api.responses import json_response, no_content
from pod_worker.fake_runpod.cloud.account import Template
from pod_worker.fake_runpod.cloud.validation import check_container

T = TypeVar("T")
Views = list[Json]


@dataclass(frozen=True, slots=True)
class Surface:
    """How one API version responds.

    `list_response` gets the request, the key of the list and its views.
    """

    created_status: int
    list_response: Callable[[Request, str, Views], Response]
    has_update_action: bool = False
    """Whether `POST …/{id}/update` is another name of PATCH."""


@dataclass(frozen=True, slots=True)
class Resource(Generic[T]):
    """One kind of resource: path, key in lists, operations. Bodies are bytes."""

    path: str
    key: str
    view: Callable[[T], Json]
    list: Callable[[Request], Iterable[T]]
    get: Callable[[str], T]
    create: Callable[[bytes], T]
    delete: Callable[[str], None]
    update: Callable[[str, bytes], T] | None = None


def resource_routes(resource: Resource[Any], surface: Surface) -> APIRouter:
    """List, create, get, update and delete under the resource's path."""
    router = APIRouter(prefix=resource.path)

    def show(item: object, status: int = 200) -> Response:
        return json_response(resource.view(item), status)

    @router.get("")
    async def list_all(request: Request) -> Response:
        views = [resource.view(item) for item in resource.list(request)]
        return surface.list_response(request, resource.key, views)

    @router.post("")
    async def create(request: Request) -> Response:
        return show(resource.create(await request.body()), surface.created_status)

    @router.get("/{resource_id}")
    async def get(resource_id: str) -> Response:
        return show(resource.get(resource_id))

    @router.delete("/{resource_id}")
    async def delete(resource_id: str) -> Response:
        resource.delete(resource_id)
        return no_content()

    if (update := resource.update) is None:
        return router

    async def change(resource_id: str, request: Request) -> Response:
        return show(update(resource_id, await request.body()))

    router.add_api_route("/{resource_id}", change, methods=["PATCH"])
    if surface.has_update_action:
        router.add_api_route("/{resource_id}/update", change, methods=["POST"])
    return router


def apply_settings(template: Template, **settings: Json) -> None:
    """Check a request's settings and set those not None. Raises ApiError."""
    check_container(template.name, settings.get("env") or {}, tuple(settings.get("ports") or ()))
    for name, value in settings.items():
        if value is not None:
            setattr(template, name, tuple(value) if isinstance(value, list) else value)
