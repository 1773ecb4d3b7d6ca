"""REST v2 as one router under `/v2`: RunPod's primary API since 2026.

Serverless endpoints and clusters are empty lists and cannot be created.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from pod_worker.fake_runpod.api.responses import json_response
from pod_worker.fake_runpod.api.v2.billing import billing_routes
from pod_worker.fake_runpod.api.v2.catalog import catalogue_routes
from pod_worker.fake_runpod.api.v2.logs import log_routes
from pod_worker.fake_runpod.api.v2.pods import pod_routes
from pod_worker.fake_runpod.api.v2.resources import v2_resource_routes
from pod_worker.fake_runpod.api.v2.views import page
from pod_worker.fake_runpod.errors import ApiError, ApiErrorKind
from pod_worker.fake_runpod.runtime import SimulatorRuntime

EMPTY_LISTS = {"serverless": "endpoints", "clusters": "clusters"}


def v2_routes(runtime: SimulatorRuntime) -> APIRouter:
    router = APIRouter(prefix="/v2")
    for routes in (pod_routes, log_routes, catalogue_routes, v2_resource_routes, billing_routes):
        router.include_router(routes(runtime))

    @router.get("/{family}")
    async def empty_list(family: str, request: Request) -> Response:
        if family not in EMPTY_LISTS:
            raise ApiError(ApiErrorKind.NOT_FOUND, "The requested path was not found.")
        return json_response(page(EMPTY_LISTS[family], [], request.query_params.get("cursor"), None))

    return router
