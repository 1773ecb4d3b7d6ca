"""The test API under `/_fake`: faults, clock, pods, requests, account, reset.

It exists only in this fake. Responses are plain JSON.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from pod_worker.core.run import Json
from pod_worker.fake_runpod import timestamps
from pod_worker.fake_runpod.api.responses import json_response, no_content, plain_error
from pod_worker.fake_runpod.billing.money import amount_usd, price_usd
from pod_worker.fake_runpod.cloud.faults import parse_rules
from pod_worker.fake_runpod.cloud.pod import Pod
from pod_worker.fake_runpod.cloud.settings import SimulationSettings
from pod_worker.fake_runpod.runtime import SimulatorRuntime


class ClockChange(msgspec.Struct, forbid_unknown_fields=True):
    step_seconds: float = 0.0
    speed: float | None = None


class AccountChange(msgspec.Struct, forbid_unknown_fields=True):
    balance_usd: float | None = None
    spend_limit_usd_per_hour: float | None = None
    ssh_keys: list[str] | None = None
    secrets: dict[str, str] | None = None


class PodFaultRequest(msgspec.Struct, forbid_unknown_fields=True):
    notice_seconds: float = 5.0
    message: str = "machine error"
    code: int = 0


class LogLinesRequest(msgspec.Struct, forbid_unknown_fields=True):
    lines: list[str]
    source: str = "container"


def admin_routes(runtime: SimulatorRuntime) -> APIRouter:
    router = APIRouter(prefix="/_fake")
    for routes in (_fault_routes(runtime), _clock_routes(runtime), _account_routes(runtime), _pod_routes(runtime)):
        router.include_router(routes)

    @router.get("/requests")
    async def requests() -> Response:
        return json_response(runtime.requests.view())

    @router.delete("/requests")
    async def forget_requests() -> Response:
        runtime.requests.clear()
        return no_content()

    @router.post("/reset")
    async def reset() -> Response:
        """Delete every pod, volume, rule and bill; keep the clock and the keys."""
        runtime.reset()
        return no_content()

    return router


def _fault_routes(runtime: SimulatorRuntime) -> APIRouter:
    router, faults = APIRouter(prefix="/faults"), runtime.simulator.faults

    @router.get("")
    async def list_faults() -> Response:
        return json_response(faults.rules)

    @router.post("")
    async def add_faults(request: Request) -> Response:
        """One rule or a list, as JSON or (content type with `yaml`) YAML."""
        is_yaml = "yaml" in request.headers.get("content-type", "")
        try:
            rules = parse_rules(await request.body(), yaml=is_yaml)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            return plain_error(400, f"not a fault rule: {error}")
        return json_response([faults.add(rule, runtime.simulator.now_ns) for rule in rules], 201)

    @router.delete("")
    async def clear_faults() -> Response:
        return json_response({"removed": faults.remove()})

    @router.delete("/{rule_id}")
    async def remove_fault(rule_id: int) -> Response:
        return json_response({"removed": faults.remove(rule_id)})

    return router


def _clock_routes(runtime: SimulatorRuntime) -> APIRouter:
    router = APIRouter(prefix="/clock")

    def show() -> Response:
        now = runtime.simulator.now_ns
        return json_response({"now": timestamps.rfc3339_nano(now), "now_ns": now, "speed": runtime.clock.speed})

    @router.get("")
    async def get_clock() -> Response:
        return show()

    @router.post("")
    async def change_clock(request: Request) -> Response:
        try:
            change = msgspec.json.decode(await request.body(), type=ClockChange)
            if change.speed is not None:
                runtime.clock.set_speed(change.speed)
            runtime.clock.step(change.step_seconds)
        except ValueError as error:
            return plain_error(400, str(error))
        runtime.wake()
        return show()

    return router


def _account_routes(runtime: SimulatorRuntime) -> APIRouter:
    router, simulator = APIRouter(), runtime.simulator

    def show() -> Response:
        money = {"balance_usd": price_usd(simulator.billing.balance_nano(simulator.now_ns))}
        money["spend_usd_per_hour"] = simulator.billing.spend_usd_per_hour
        return json_response({"id": simulator.account.id, **money, "secrets": sorted(simulator.account.secrets)})

    @router.get("/account")
    async def get_account() -> Response:
        return show()

    @router.patch("/account")
    async def change_account(request: Request) -> Response:
        try:
            change = msgspec.json.decode(await request.body(), type=AccountChange)
        except msgspec.DecodeError as error:
            return plain_error(400, str(error))
        if change.balance_usd is not None:
            # The request sets the remaining balance, so what was spent so far is added.
            spent = simulator.account.balance_usd - price_usd(simulator.billing.balance_nano(simulator.now_ns))
            simulator.account.balance_usd = change.balance_usd + spent
        for name in ("spend_limit_usd_per_hour", "ssh_keys", "secrets"):
            if (value := getattr(change, name)) is not None:
                setattr(simulator.account, name, value)
        simulator.billing.recompute_exhaustion(simulator.now_ns)
        return show()

    # `/physics` is the route's name before 0.1.0.
    @router.get("/settings")
    @router.get("/physics")
    async def get_settings() -> Response:
        return json_response(simulator.settings)

    @router.patch("/settings")
    @router.patch("/physics")
    async def change_settings(request: Request) -> Response:
        try:
            changes = msgspec.json.decode(await request.body(), type=dict[str, Json])
            merged = msgspec.convert(msgspec.to_builtins(simulator.settings) | changes, type=SimulationSettings)
            unknown = set(changes) - set(SimulationSettings.__dataclass_fields__)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            return plain_error(400, str(error))
        if unknown:
            return plain_error(400, f"no such setting: {', '.join(sorted(unknown))}")
        simulator.settings = replace(merged)
        return json_response(simulator.settings)

    return router


def _pod_routes(runtime: SimulatorRuntime) -> APIRouter:
    router, simulator = APIRouter(prefix="/pods"), runtime.simulator

    @router.get("")
    async def every_pod() -> Response:
        """All pods that exist and are billed, also those that the API does not show yet."""
        return json_response(
            {
                "pods": [_pod_details(runtime, pod) for pod in simulator.all_pods()],
                "created": simulator.created_count,
                "terminated": simulator.terminated_count,
            }
        )

    @router.post("/{pod_id}/logs")
    async def write_logs(pod_id: str, request: Request) -> Response:
        body = msgspec.json.decode(await request.body(), type=LogLinesRequest)
        for line in body.lines:
            simulator.log_of(simulator.find(pod_id)).write(simulator.now_ns, body.source, line)
        return no_content()

    @router.post("/{pod_id}/{fault}")
    async def inject_fault(pod_id: str, fault: str, request: Request) -> Response:
        """Apply interrupt, vanish, fail or exit at once."""
        pod = simulator.find_hidden(pod_id)
        if pod is None:
            return plain_error(404, "pod not found")
        details = msgspec.json.decode(await request.body() or b"{}", type=PodFaultRequest)
        match fault:
            case "interrupt":
                simulator.interrupt(pod, details.notice_seconds)
            case "vanish":
                simulator.delete_silently(pod)
            case "fail":
                simulator.fail(pod, details.message)
            case "exit":
                simulator.record_exit(pod.id, pod.generation, details.code)
            case _:
                return plain_error(404, f"no such fault {fault!r}: use interrupt, vanish, fail or exit")
        runtime.wake()
        return no_content()

    return router


def _pod_details(runtime: SimulatorRuntime, pod: Pod) -> dict[str, Json]:
    simulator = runtime.simulator
    accrued = simulator.billing.pods.entries[pod.id].usage.usage_until(simulator.now_ns)
    return {
        "id": pod.id,
        "name": pod.spec.name,
        "status": pod.status,
        "is_visible": pod.visible_ns <= simulator.now_ns,
        "is_ready": pod.ready,
        "generation": pod.generation,
        "data_center": pod.data_center_id,
        "gpu": pod.gpu_id,
        "gpu_count": pod.gpu_count,
        "cost_usd_per_hour": price_usd(pod.cost_nano),
        "accrued_usd": amount_usd(accrued.total),
    }
