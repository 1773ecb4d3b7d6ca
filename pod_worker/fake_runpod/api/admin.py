"""The test API under `/_fake`: faults, the virtual clock, the truth about pods, what was asked, and a fresh start.

Needs no key: it exists only in this fake, which listens on loopback. Answers are plain JSON.
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


def control_routes(host: SimulatorRuntime) -> APIRouter:
    router = APIRouter(prefix="/_fake")
    for routes in (_fault_routes(host), _clock_routes(host), _account_routes(host), _pod_routes(host)):
        router.include_router(routes)

    @router.get("/requests")
    async def requests() -> Response:
        return json_response(host.requests.view())

    @router.delete("/requests")
    async def forget_requests() -> Response:
        host.requests.clear()
        return no_content()

    @router.post("/reset")
    async def reset() -> Response:
        """Every pod, volume, rule and bill gone; the clock and the keys stay."""
        host.reset()
        return no_content()

    return router


def _fault_routes(host: SimulatorRuntime) -> APIRouter:
    router, faults = APIRouter(prefix="/faults"), host.world.faults

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
        return json_response([faults.add(rule, host.world.now_ns) for rule in rules], 201)

    @router.delete("")
    async def clear_faults() -> Response:
        return json_response({"removed": faults.remove()})

    @router.delete("/{rule_id}")
    async def remove_fault(rule_id: int) -> Response:
        return json_response({"removed": faults.remove(rule_id)})

    return router


def _clock_routes(host: SimulatorRuntime) -> APIRouter:
    router = APIRouter(prefix="/clock")

    def show() -> Response:
        now = host.world.now_ns
        return json_response({"now": timestamps.rfc3339_nano(now), "now_ns": now, "speed": host.clock.speed})

    @router.get("")
    async def get_clock() -> Response:
        return show()

    @router.post("")
    async def change_clock(request: Request) -> Response:
        try:
            change = msgspec.json.decode(await request.body(), type=ClockChange)
            if change.speed is not None:
                host.clock.set_speed(change.speed)
            host.clock.step(change.step_seconds)
        except ValueError as error:
            return plain_error(400, str(error))
        host.wake()
        return show()

    return router


def _account_routes(host: SimulatorRuntime) -> APIRouter:
    router, world = APIRouter(), host.world

    def show() -> Response:
        money = {"balance_usd": price_usd(world.treasury.balance_nano(world.now_ns))}
        money["spend_usd_per_hour"] = world.treasury.spend_usd_per_hour
        return json_response({"id": world.account.id, **money, "secrets": sorted(world.account.secrets)})

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
            # Set what is left, whatever was spent so far.
            spent = world.account.balance_usd - price_usd(world.treasury.balance_nano(world.now_ns))
            world.account.balance_usd = change.balance_usd + spent
        for name in ("spend_limit_usd_per_hour", "ssh_keys", "secrets"):
            if (value := getattr(change, name)) is not None:
                setattr(world.account, name, value)
        world.treasury.recompute_exhaustion(world.now_ns)
        return show()

    @router.get("/physics")
    async def get_physics() -> Response:
        return json_response(world.physics)

    @router.patch("/physics")
    async def change_physics(request: Request) -> Response:
        try:
            changes = msgspec.json.decode(await request.body(), type=dict[str, Json])
            merged = msgspec.convert(msgspec.to_builtins(world.physics) | changes, type=SimulationSettings)
            unknown = set(changes) - set(SimulationSettings.__dataclass_fields__)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            return plain_error(400, str(error))
        if unknown:
            return plain_error(400, f"no such physics: {', '.join(sorted(unknown))}")
        world.physics = replace(merged)
        return json_response(world.physics)

    return router


def _pod_routes(host: SimulatorRuntime) -> APIRouter:
    router, world = APIRouter(prefix="/pods"), host.world

    @router.get("")
    async def every_pod() -> Response:
        """All pods that exist and bill, whether the API shows them or not."""
        return json_response(
            {
                "pods": [_pod_details(host, pod) for pod in world.all_pods()],
                "created": world.created_count,
                "terminated": world.terminated_count,
            }
        )

    @router.post("/{pod_id}/logs")
    async def write_logs(pod_id: str, request: Request) -> Response:
        body = msgspec.json.decode(await request.body(), type=LogLinesRequest)
        for line in body.lines:
            world.log_of(world.find(pod_id)).write(world.now_ns, body.source, line)
        return no_content()

    @router.post("/{pod_id}/{trouble}")
    async def inject_fault(pod_id: str, trouble: str, request: Request) -> Response:
        """interrupt, vanish, fail or exit, now."""
        pod = world.find_hidden(pod_id)
        if pod is None:
            return plain_error(404, "pod not found")
        what = msgspec.json.decode(await request.body() or b"{}", type=PodFaultRequest)
        match trouble:
            case "interrupt":
                world.interrupt(pod, what.notice_seconds)
            case "vanish":
                world.delete_silently(pod)
            case "fail":
                world.fail(pod, what.message)
            case "exit":
                world.record_exit(pod.id, pod.life, what.code)
            case _:
                return plain_error(404, f"no trouble {trouble!r}; there are interrupt, vanish, fail, exit")
        host.wake()
        return no_content()

    return router


def _pod_details(host: SimulatorRuntime, pod: Pod) -> dict[str, Json]:
    world = host.world
    owed = world.treasury.pods.lines[pod.id].tally.usage_until(world.now_ns)
    return {
        "id": pod.id,
        "name": pod.spec.name,
        "status": pod.status,
        "is_visible": pod.visible_ns <= world.now_ns,
        "is_ready": pod.ready,
        "life": pod.life,
        "data_center": pod.data_center_id,
        "gpu": pod.gpu_id,
        "gpu_count": pod.gpu_count,
        "cost_usd_per_hour": price_usd(pod.cost_nano),
        "owed_usd": amount_usd(owed.total),
    }
