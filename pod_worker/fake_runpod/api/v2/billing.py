"""REST v2 billing: spend per bucket and resource.

Totals are the exact sum of the records.

Bills lag behind the clock by `billing_lag_seconds`. Serverless, endpoints and clusters are always empty.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from pod_worker.core.run import Json
from pod_worker.fake_runpod import timestamps
from pod_worker.fake_runpod.api.responses import json_response
from pod_worker.fake_runpod.billing.ledger import ZERO, Amounts, Charge
from pod_worker.fake_runpod.billing.money import amount_usd
from pod_worker.fake_runpod.billing.period import BillingPeriod, parse_period
from pod_worker.fake_runpod.errors import ApiError, ApiErrorKind
from pod_worker.fake_runpod.runtime import SimulatorRuntime

EMPTY = {
    "serverless": ("totalAmount", "gpuAmount", "cpuAmount", "diskAmount", "feeAmount"),
    "endpoints": ("totalAmount",),
    "clusters": ("totalAmount", "gpuAmount", "diskAmount", "networkingAmount"),
}
COUNTED = {"serverless": "uniqueServerlessCount", "clusters": "uniqueClusterCount"}
AGGREGATE = (
    "totalAmount",
    *("podGpuAmount", "podCpuAmount", "podDiskAmount"),
    *("serverlessGpuAmount", "serverlessCpuAmount", "serverlessDiskAmount", "serverlessFeeAmount"),
    *("storageStandardAmount", "storageHighPerformanceAmount", "endpointAmount"),
    *("clusterGpuAmount", "clusterDiskAmount", "clusterNetworkingAmount"),
)

Pico = dict[str, int]


def billing_routes(runtime: SimulatorRuntime) -> APIRouter:
    router = APIRouter(prefix="/billing")
    simulator = runtime.simulator

    def window(request: Request) -> BillingPeriod:
        return parse_period(request.query_params, simulator.now_ns, ApiErrorKind.INVALID)

    @router.get("/pods")
    async def pods(request: Request) -> Response:
        span, pod_id = window(request), request.query_params.get("podId")
        charges = list(span.charges(simulator.billing.pods, simulator.billing_cutoff(), pod_id))
        records = [_record(c, pod_amounts(c)) | {"podId": c.item.id} for c in charges]
        extra = {"uniquePodCount": len({c.item.id for c in charges})}
        zero = pod_amounts(None)
        return _answer(span, records, _sum([pod_amounts(c) for c in charges], zero), {"podId": pod_id}, extra)

    @router.get("/network-volumes")
    async def volumes(request: Request) -> Response:
        span, volume_id = window(request), request.query_params.get("networkVolumeId")
        charges = list(span.charges(simulator.billing.volumes, simulator.billing_cutoff(), volume_id))
        records = [_record(c, volume_amounts(c)) | {"networkVolumeId": c.item.id} for c in charges]
        extra = {"uniqueNetworkVolumeCount": len({c.item.id for c in charges})}
        totals = _sum([volume_amounts(c) for c in charges], volume_amounts(None))
        return _answer(span, records, totals, {"networkVolumeId": volume_id}, extra)

    @router.get("")
    async def everything(request: Request) -> Response:
        span = window(request)
        buckets: dict[tuple[int, int], list[Pico]] = {}
        for ledger in (simulator.billing.pods, simulator.billing.volumes):
            for c in span.charges(ledger, simulator.billing_cutoff()):
                named = _aggregate_pod(c) if ledger is simulator.billing.pods else _aggregate_volume(c)
                buckets.setdefault((c.start_ns, c.end_ns), []).append(named)
        zero = dict.fromkeys(AGGREGATE, 0)
        sums = {edges: _sum(parts, zero) for edges, parts in sorted(buckets.items())}
        records = [_range(*edges) | _usd(pico) for edges, pico in sums.items()]
        return _answer(span, records, _sum(list(sums.values()), zero), {}, {})

    @router.get("/{family}")
    async def nothing(family: str, request: Request) -> Response:
        if family not in EMPTY:
            raise ApiError(ApiErrorKind.NOT_FOUND, "The requested path was not found.")
        extra: dict[str, Json] = {COUNTED[family]: 0} if family in COUNTED else {}
        return _answer(window(request), [], dict.fromkeys(EMPTY[family], 0), {}, extra)

    return router


def pod_amounts(charge: Charge | None) -> Pico:
    amounts, is_cpu = (charge.amounts, charge.item.is_cpu) if charge else (ZERO, False)
    compute = {"gpuAmount": 0, "cpuAmount": 0} | {"cpuAmount" if is_cpu else "gpuAmount": amounts.compute}
    return {"totalAmount": amounts.total, **compute, "diskAmount": amounts.disk}


def volume_amounts(charge: Charge | None) -> Pico:
    amounts: Amounts = charge.amounts if charge else ZERO
    is_fast = charge is not None and charge.item.group == "HIGH_PERFORMANCE"
    return {
        "totalAmount": amounts.disk,
        "standardAmount": 0 if is_fast else amounts.disk,
        "highPerformanceAmount": amounts.disk if is_fast else 0,
    }


def _aggregate_pod(charge: Charge) -> Pico:
    amounts = pod_amounts(charge)
    renamed = {f"pod{name[0].upper()}{name[1:]}": pico for name, pico in amounts.items() if name != "totalAmount"}
    return {"totalAmount": amounts["totalAmount"], **renamed}


def _aggregate_volume(charge: Charge) -> Pico:
    amounts = volume_amounts(charge)
    return {
        "totalAmount": amounts["totalAmount"],
        "storageStandardAmount": amounts["standardAmount"],
        "storageHighPerformanceAmount": amounts["highPerformanceAmount"],
    }


def _sum(parts: list[Pico], zero: Pico) -> Pico:
    total = dict(zero)
    for part in parts:
        for name, pico in part.items():
            total[name] += pico
    return total


def _usd(pico: Pico) -> dict[str, Json]:
    return {name: amount_usd(amount) for name, amount in pico.items()}


def _range(start_ns: int, end_ns: int) -> dict[str, Json]:
    return {"startTime": timestamps.rfc3339(start_ns), "endTime": timestamps.rfc3339(end_ns)}


def _record(charge: Charge, pico: Pico) -> dict[str, Json]:
    return _range(charge.start_ns, charge.end_ns) | _usd(pico)


def _answer(
    span: BillingPeriod,
    records: list[dict[str, Json]],
    totals: Pico,
    query: dict[str, Json],
    extra: dict[str, Json],
) -> Response:
    asked = _range(span.start_ns, span.end_ns) | {"bucketSize": span.bucket}
    asked |= {name: value for name, value in query.items() if value is not None}
    metadata = {"query": asked, "recordCount": len(records), **extra, "totals": _usd(totals)}
    return json_response({"records": records, "metadata": metadata})
