"""The wire forms of REST v2: pods, offers, bills, create bodies, errors.

Source: the v2 OpenAPI document of Aug 2026 and texts seen in the field. Pure functions; nothing here sends.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable

from pod_worker.pods.catalogue import BillingRecord, GpuOffer, StockLevel, stock_of
from pod_worker.pods.errors import (
    ApiRetiredError,
    ForbiddenError,
    InsufficientBalanceError,
    InvalidRequestError,
    NoCapacityError,
    PodNotFoundError,
    ProviderError,
    RateLimitedError,
    RequestRejectedError,
    ServerError,
    StateConflictError,
    UnauthorizedError,
    is_balance_text,
    is_capacity_text,
)
from pod_worker.pods.json_view import JsonObject
from pod_worker.pods.pod import Cloud, Pod, PodSpec, PortMapping, SshAddress, status_of
from pod_worker.pods.runpod.transport import HttpReply, Json


def error_from(reply: HttpReply, what: str) -> ProviderError:
    """Total map from a v2 reply to its error."""
    problem = JsonObject(reply.body)
    reason = "; ".join((problem.text("detail", "title") or reply.text, *problem.texts("errors")))
    message = f"{what}: {reply.status} {reason}".strip()
    if reply.status == 400:
        if is_capacity_text(reason):
            return NoCapacityError(message, status=400)
        return (
            InsufficientBalanceError(message, status=400)
            if is_balance_text(reason)
            else RequestRejectedError(message, status=400)
        )
    if reply.status == 429:
        return RateLimitedError(message, wait_seconds=60.0)
    if reply.status >= 500 and is_capacity_text(reason):
        return NoCapacityError(message, status=reply.status)
    make = _BY_STATUS.get(reply.status)
    if make is not None:
        return make(message, status=reply.status)
    # Other 4xx statuses reject the request; of every other status the outcome is unknown.
    return (InvalidRequestError if 400 <= reply.status < 500 else ServerError)(message, status=reply.status)


_BY_STATUS: dict[int, Callable[..., ProviderError]] = {
    401: UnauthorizedError,
    402: InsufficientBalanceError,
    403: ForbiddenError,
    404: PodNotFoundError,
    408: ServerError,
    409: StateConflictError,
    410: ApiRetiredError,
    422: InvalidRequestError,
}


def create_body(spec: PodSpec) -> Json:
    gpu: dict[str, object] = {"id": spec.gpu_id, "count": spec.gpu_count}  # an omitted count matches no machine
    if spec.min_cuda_version:
        gpu["minCudaVersion"] = spec.min_cuda_version
    body: dict[str, object] = {
        "name": spec.name,
        "gpu": gpu,
        "cloud": spec.cloud.value,
        "disk": spec.container_disk_gb,
        "env": dict(spec.env),
        "ports": list(spec.ports),
        "startSsh": "22/tcp" in spec.ports,
    }
    if spec.image:
        body["image"] = spec.image
    if spec.template_id:
        body["templateId"] = spec.template_id
    if spec.registry_id:
        body["registry"] = spec.registry_id
    if spec.data_center_id:
        body["dataCenterIds"] = [spec.data_center_id]
    if spec.start_command:
        body["args"] = shlex.join(spec.start_command)
    if spec.volume_id:
        body["mounts"] = {"network": [{"volumeId": spec.volume_id, "path": spec.mount_path}]}
    elif spec.pod_volume_gb:
        body["mounts"] = {"persistent": {"size": spec.pod_volume_gb, "path": spec.mount_path}}
    return body


def pod_from(item: JsonObject) -> Pod:
    gpu, runtime = item.document("gpu"), item.document("runtime")
    networks = item.document("mounts").documents("network")
    return Pod(
        id=item.required_text("id"),
        name=item.text("name"),
        status=status_of(item.text("status")),
        status_word=item.text("status"),
        image=item.text("image"),
        gpu_id=gpu.text("id"),
        gpu_count=gpu.integer("count") or 0,
        cloud=Cloud(item.text("cloud")) if item.text("cloud") in Cloud.__members__ else None,
        data_center_id=item.text("dataCenterId") or None,
        volume_id=networks[0].text("volumeId") or None if networks else None,
        cost_per_hour=item.number("cost"),
        created_at=item.timestamp("createdAt"),
        started_at=item.timestamp("startedAt"),
        uptime_seconds=runtime.integer("uptime"),
        ports=_ports_from(runtime),
        ssh=_ssh_from(item),
        env=dict(item.document("env").pairs()),
    )


def _ports_from(runtime: JsonObject) -> tuple[PortMapping, ...]:
    return tuple(
        PortMapping(private, port.integer("public"), port.text("ip") or None, port.text("type") or "tcp")
        for port in runtime.documents("ports")
        if (private := port.integer("private")) is not None
    )


def _ssh_from(item: JsonObject) -> SshAddress | None:
    """The direct address; RunPod's proxy has only a shell (no exec, no upload)."""
    direct = item.document("ssh").document("direct")
    host, port = direct.text("host"), direct.integer("port")
    return SshAddress(host, port, direct.text("username") or "root") if host and port else None


def offer_from(secure: JsonObject, community: JsonObject) -> GpuOffer:
    """Prices of a cloud that does not offer the GPU are placeholders.

    Only flagged clouds count.
    """
    offered = [cloud for cloud in Cloud if secure.boolean(cloud.value.lower())]
    price, most = secure.document("price"), secure.document("maxCount")
    stock = {Cloud.SECURE: _stock_in(secure), Cloud.COMMUNITY: _stock_in(community)}
    return GpuOffer(
        id=secure.required_text("id"),
        name=secure.text("name"),
        memory_gb=secure.integer("memory") or 0,
        price_per_hour={c: usd for c in offered if (usd := price.number(c.value.lower())) is not None},
        max_count={c: most.integer(c.value.lower()) or 0 for c in offered},
        stock={c: stock[c] for c in offered},
        stock_by_data_center={
            dc.text("id"): stock_of(dc.text("availability")) for dc in secure.documents("dataCenters")
        },
    )


def _stock_in(item: JsonObject) -> StockLevel:
    return stock_of(item.text("availability"))


def billing_from(item: JsonObject) -> BillingRecord:
    return BillingRecord(
        pod_id=item.text("podId"),
        start=item.timestamp("startTime"),
        total_usd=item.money("totalAmount"),
        gpu_usd=item.money("gpuAmount"),
        cpu_usd=item.money("cpuAmount"),
        disk_usd=item.money("diskAmount"),
    )
