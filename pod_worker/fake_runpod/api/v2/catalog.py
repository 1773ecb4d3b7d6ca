"""REST v2 catalog: GPU types, CPU flavors, data centers, public templates.

`include=AVAILABILITY` and `product` need each other; one alone is a 400. Stock is the free inventory minus
shortages that a fault rule makes certain; a create may still fail.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from fastapi import APIRouter, Request
from starlette.responses import Response

from pod_worker.core.run import Json
from pod_worker.fake_runpod.api.responses import json_response
from pod_worker.fake_runpod.api.v2.views import cpu_view, data_center_view, gpu_view, page, template_view
from pod_worker.fake_runpod.cloud import prices
from pod_worker.fake_runpod.cloud.catalogue import CpuFlavor, DataCenter, GpuType
from pod_worker.fake_runpod.cloud.faults import CapacityShortage
from pod_worker.fake_runpod.cloud.resources import public_templates
from pod_worker.fake_runpod.cloud.simulator import CloudSimulator
from pod_worker.fake_runpod.errors import ApiError, ApiErrorKind, not_found
from pod_worker.fake_runpod.runtime import SimulatorRuntime

GRADES = ("NONE", "LOW", "MEDIUM", "HIGH")
COMPANIONS = ("product", "count", "cloud", "countryCodes", "cudaVersions", "minCudaVersion", "vcpuCount")
"""Query parameters that are valid only with include=AVAILABILITY."""
Query = Mapping[str, str]


def catalogue_routes(runtime: SimulatorRuntime) -> APIRouter:
    router = APIRouter(prefix="/catalog")
    simulator = runtime.simulator

    def listed(key: str, views: list[Json], query: Query) -> Response:
        return json_response(page(key, views, query.get("cursor"), query.get("limit")))

    @router.get("/gpus")
    async def gpus(request: Request) -> Response:
        stock = StockView(simulator, request.query_params)
        return listed("gpus", [stock.gpu(gpu) for gpu in simulator.catalogue.gpus.values()], request.query_params)

    # GPU ids may contain spaces but no slashes; `:path` would match more than one segment.
    @router.get("/gpus/{gpu_id}")
    async def gpu(gpu_id: str, request: Request) -> Response:
        if gpu_id not in simulator.catalogue.gpus:
            raise not_found("gpu type")
        return json_response(StockView(simulator, request.query_params).gpu(simulator.catalogue.gpus[gpu_id]))

    @router.get("/cpus")
    async def cpus(request: Request) -> Response:
        stock = StockView(simulator, request.query_params)
        return listed("cpus", [stock.cpu(cpu) for cpu in simulator.catalogue.cpus.values()], request.query_params)

    @router.get("/cpus/{cpu_id}")
    async def cpu(cpu_id: str, request: Request) -> Response:
        if cpu_id not in simulator.catalogue.cpus:
            raise not_found("cpu type")
        return json_response(StockView(simulator, request.query_params).cpu(simulator.catalogue.cpus[cpu_id]))

    @router.get("/datacenters")
    async def data_centers(request: Request) -> Response:
        query = request.query_params
        kept = [dc for dc in simulator.catalogue.data_centers.values() if _is_wanted(dc, query)]
        return listed("dataCenters", [_data_center(dc, query, simulator) for dc in kept], query)

    @router.get("/datacenters/{data_center_id}")
    async def data_center(data_center_id: str, request: Request) -> Response:
        if data_center_id not in simulator.catalogue.data_centers:
            raise not_found("data center")
        found = simulator.catalogue.data_centers[data_center_id]
        return json_response(_data_center(found, request.query_params, simulator))

    @router.get("/templates")
    async def templates(request: Request) -> Response:
        source = request.query_params.get("source", "official")
        if source not in ("official", "verified", "community"):
            raise _invalid("source: must be official, verified or community")
        found = public_templates(simulator.catalogue) if source == "official" else []
        return listed("templates", [template_view(t) for t in found], request.query_params)

    return router


class StockView:
    """Catalogue entries for one query, with availability if requested.

    Raises ApiError for an invalid query.
    """

    def __init__(self, simulator: CloudSimulator, query: Query) -> None:
        include = _words(query.get("include"))
        if any(word != "AVAILABILITY" for word in include):
            raise _invalid("include: the only supported value is AVAILABILITY")
        self._simulator = simulator
        self._is_asked = bool(include)
        _check_companions(query, self._is_asked)
        self._count = _count(query.get("count", "1"))
        self._cloud = query.get("cloud", "SECURE")
        if self._cloud not in ("SECURE", "COMMUNITY"):
            raise _invalid("cloud: must be SECURE or COMMUNITY")
        self._cuda = tuple(_words(query.get("cudaVersions")))
        self._min_cuda = query.get("minCudaVersion")
        self._is_unavailable = simulator.faults.advertised_shortage(simulator.now_ns)

    def gpu(self, gpu: GpuType) -> dict[str, Json]:
        view = gpu_view(gpu)
        if not self._is_asked:
            return view
        places = self._gpu_places(gpu)
        view["availability"] = _best(places)
        if places:
            view["dataCenters"] = places
        if gpu.manufacturer != "AMD":
            versions = [v for v in self._simulator.catalogue.cuda_versions if self._fits(v)]
            view["cudaVersions"] = [{"version": v, "available": bool(places)} for v in versions]
        return view

    def cpu(self, cpu: CpuFlavor) -> dict[str, Json]:
        view = cpu_view(cpu)
        if self._is_asked:
            places = cpu_places(self._simulator, cpu, self._is_unavailable)
            view["availability"] = _best(places)
            view["dataCenters"] = places
        return view

    def _gpu_places(self, gpu: GpuType) -> list[Json]:
        if not any(self._fits(v) for v in self._simulator.catalogue.cuda_versions):
            return []
        graded = [
            (dc, self._simulator.placer.stock.level(gpu.id, dc.id, self._cloud, self._count, self._is_unavailable))
            for dc in self._simulator.catalogue.data_centers.values()
        ]
        return [{"id": dc.id, "name": dc.name, "availability": grade} for dc, grade in graded if grade != "NONE"]

    def _fits(self, version: str) -> bool:
        return prices.cuda_fits(version, self._cuda, self._min_cuda)


def cpu_places(simulator: CloudSimulator, cpu: CpuFlavor, is_unavailable: CapacityShortage) -> list[Json]:
    return [
        {"id": dc.id, "name": dc.name, "availability": "HIGH"}
        for dc in simulator.catalogue.data_centers.values()
        if not is_unavailable(cpu.id, dc.id, "SECURE")
    ]


def _data_center(dc: DataCenter, query: Query, simulator: CloudSimulator) -> dict[str, Json]:
    include = _words(query.get("include"))
    if any(word not in ("GPU_AVAILABILITY", "CPU_AVAILABILITY") for word in include):
        raise _invalid("include: supported values are GPU_AVAILABILITY, CPU_AVAILABILITY")
    view, is_unavailable = data_center_view(dc), simulator.faults.advertised_shortage(simulator.now_ns)
    if "GPU_AVAILABILITY" in include:
        offered = [gpu for gpu in simulator.catalogue.gpus.values() if "SECURE" in gpu.price_nano]
        view["gpuAvailability"] = [
            {
                "id": g.id,
                "name": g.name,
                "availability": simulator.placer.stock.level(g.id, dc.id, "SECURE", 1, is_unavailable),
            }
            for g in offered
        ]
    if "CPU_AVAILABILITY" in include:
        view["cpuAvailability"] = [
            {
                "id": c.id,
                "name": c.name,
                "availability": "NONE" if is_unavailable(c.id, dc.id, "SECURE") else "HIGH",
            }
            for c in simulator.catalogue.cpus.values()
        ]
    return view


def _is_wanted(dc: DataCenter, query: Query) -> bool:
    regions, tiers = _words(query.get("regions")), _words(query.get("networkVolumeTypes"))
    certificates = set(data_center_view(dc)["compliance"])
    networked = query.get("globalNetwork")
    return (
        (not regions or dc.region in regions)
        and set(tiers) <= set(dc.volume_types)
        and set(_words(query.get("compliance"))) <= certificates
        and (networked is None or dc.global_network == (networked == "true"))
    )


def _check_companions(query: Query, is_asked: bool) -> None:
    if is_asked and not query.get("product"):
        raise ApiError(ApiErrorKind.RULE, "product is required with include=AVAILABILITY")
    if not is_asked:
        for name in COMPANIONS:
            if name in query:
                raise ApiError(ApiErrorKind.RULE, f"{name} is only valid with include=AVAILABILITY")
    if any(word not in ("POD", "CLUSTER", "SERVERLESS") for word in _words(query.get("product"))):
        raise _invalid("product: must be POD, CLUSTER or SERVERLESS")
    if query.get("cudaVersions") and query.get("minCudaVersion"):
        raise ApiError(ApiErrorKind.RULE, "cudaVersions and minCudaVersion are mutually exclusive")
    if any(not re.fullmatch(r"\d+\.\d+", word) for word in _words(query.get("cudaVersions"))):
        raise _invalid("cudaVersions: must be major.minor")
    if not re.fullmatch(r"\d+(\.\d+)?", query.get("minCudaVersion", "0")):
        raise _invalid("minCudaVersion: must be major or major.minor")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise _invalid("count: must be an integer of at least 1")
    return int(text)


def _best(places: list[Json]) -> str:
    return max((index["availability"] for index in places), key=GRADES.index, default="NONE")


def _words(text: str | None) -> list[str]:
    return [word for word in (text or "").split(",") if word]


def _invalid(line: str) -> ApiError:
    return ApiError(ApiErrorKind.INVALID, "Request validation failed.", (line,))
