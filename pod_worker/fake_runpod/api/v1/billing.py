"""REST v1 billing: bare arrays of records, grouped by GPU type or by pod.

The amounts are the same as v2's.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from pod_worker.core.run import Json
from pod_worker.fake_runpod import timestamps
from pod_worker.fake_runpod.api.responses import json_response
from pod_worker.fake_runpod.billing.ledger import ZERO, Amounts
from pod_worker.fake_runpod.billing.money import amount_usd
from pod_worker.fake_runpod.billing.period import parse_period
from pod_worker.fake_runpod.errors import ApiError, ApiErrorKind
from pod_worker.fake_runpod.runtime import SimulatorRuntime


def billing_routes(runtime: SimulatorRuntime) -> APIRouter:
    router, simulator = APIRouter(prefix="/billing"), runtime.simulator

    @router.get("/pods")
    async def pods(request: Request) -> Response:
        query = request.query_params
        grouping = query.get("grouping", "gpuTypeId")
        if grouping not in ("podId", "gpuTypeId"):
            raise ApiError(ApiErrorKind.INVALID, f'invalid grouping "{grouping}": use podId or gpuTypeId')
        span = parse_period(query, simulator.now_ns, ApiErrorKind.INVALID)
        grouped: dict[tuple[int, str], tuple[Amounts, int]] = {}
        for charge in span.charges(simulator.billing.pods, simulator.billing_cutoff(), query.get("podId")):
            if query.get("gpuTypeId") in (None, charge.item.group):
                key = (charge.start_ns, charge.item.id if grouping == "podId" else charge.item.group)
                amounts, disk = grouped.get(key, (ZERO, 0))
                grouped[key] = (amounts + charge.amounts, disk + charge.item.disk_gb)
        return json_response([_record(at, grouping, name, *sums) for (at, name), sums in sorted(grouped.items())])

    @router.get("/networkvolumes")
    async def volumes(request: Request) -> Response:
        span = parse_period(request.query_params, simulator.now_ns, ApiErrorKind.INVALID)
        charges = span.charges(simulator.billing.volumes, simulator.billing_cutoff())
        return json_response(
            [_record(c.start_ns, "networkVolumeId", c.item.id, c.amounts, c.item.disk_gb) for c in charges]
        )

    @router.get("/endpoints")
    async def endpoints(request: Request) -> Response:
        return json_response([])

    return router


def _record(at_ns: int, group: str, name: str, amounts: Amounts, disk_gb: int) -> dict[str, Json]:
    """With both spellings of the disk field: the documented and the observed one."""
    return {
        group: name,
        "amount": amount_usd(amounts.total),
        "time": timestamps.rfc3339(at_ns),
        "timeBilledMs": amounts.millis,
        "diskSpaceBilledGb": disk_gb,
        "diskSpaceBilledGB": disk_gb,
    }
