"""ASGI layer in front of all surfaces: faults, keys, quotas, request log."""

from __future__ import annotations

import asyncio
from urllib.parse import parse_qs

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pod_worker.fake_runpod.api.browser_guard import browser_refusal
from pod_worker.fake_runpod.api.caller import ApiCaller
from pod_worker.fake_runpod.api.rate_limit import QuotaDecision, RateLimiter
from pod_worker.fake_runpod.api.responses import error_response, html_error
from pod_worker.fake_runpod.cloud.faults import FaultContext, FaultKind, FaultRule
from pod_worker.fake_runpod.runtime import SimulatorRuntime

UNAUTHENTICATED_SURFACES = ("telemetry", "root")
UNCOUNTED_SURFACES = ("admin", *UNAUTHENTICATED_SURFACES)
RETIRED = {
    "v1": "REST API v1 has been retired. Use https://api.runpod.io/v2.",
    "graphql": "The GraphQL API has been retired. Use https://api.runpod.io/v2.",
    "v2": "This API has been retired.",
}


def surface_of(path: str) -> str:
    head = path.split("/", 2)[1] if path.startswith("/") else ""
    known = {"v2": "v2", "graphql": "graphql", "_fake": "admin", "telemetry": "telemetry", "": "root"}
    return known.get(head, "v1")


class ApiGateway:
    def __init__(self, app: ASGIApp, runtime: SimulatorRuntime, limiter: RateLimiter) -> None:
        self._app = app
        self._runtime = runtime
        self._limiter = limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        surface = surface_of(scope["path"])
        scope["fake.surface"] = surface
        self._runtime.catch_up()
        try:
            if (reason := browser_refusal(scope, self._runtime.bind_address)) is not None:
                await error_response(surface, 403, reason)(scope, receive, send)
            elif surface in UNCOUNTED_SURFACES:
                await (self._admin_error(surface, scope) or self._app)(scope, receive, send)
            else:
                await self._handle(surface, scope, receive, self._counting(scope, send))
        finally:
            self._runtime.catch_up()

    def _counting(self, scope: Scope, send: Send) -> Send:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                ids = tuple(scope.get("path_params", {}).values())
                self._runtime.requests.record(scope["method"], scope["path"], ids, message["status"])
            await send(message)

        return counted

    async def _handle(self, surface: str, scope: Scope, receive: Receive, send: Send) -> None:
        context = FaultContext(surface=surface, method=scope["method"], path=scope["path"])
        slow = self._trigger(FaultKind.SLOW, context)
        if slow is not None and not slow.after_acting:
            await asyncio.sleep(slow.seconds)
        rejection = self._injected_error(surface, context) or self._unauthorized(surface, scope)
        decision: QuotaDecision | None = None
        if rejection is None and surface == "v2":
            # Quotas are per user, whichever of their keys or pods sends the request.
            decision = self._limiter.check(self._runtime.simulator.account.id)
            send = self._with_quota(send, decision)
            if decision.exceeded:
                rejection = self._too_many(surface, f"for the {decision.exceeded} window", decision.retry_after)
        if slow is not None and slow.after_acting:
            send = _delayed(send, slow.seconds)
        await (rejection or self._app)(scope, receive, send)

    def _trigger(self, kind: FaultKind, context: FaultContext) -> FaultRule | None:
        return self._runtime.simulator.faults.trigger(kind, context, self._runtime.simulator.now_ns)

    def _injected_error(self, surface: str, context: FaultContext) -> Response | None:
        if rule := self._trigger(FaultKind.GONE, context):
            return error_response(surface, 410, rule.message or RETIRED[surface])
        if rule := self._trigger(FaultKind.TOO_MANY_REQUESTS, context):
            return self._too_many(surface, "for the minute window", rule.retry_after)
        if rule := self._trigger(FaultKind.HTTP_ERROR, context):
            if rule.html:
                return html_error(rule.status)
            return error_response(surface, rule.status, rule.message or "upstream failure")
        return None

    def _too_many(self, surface: str, which: str, retry_after: int) -> Response:
        answer = error_response(surface, 429, f"rate limit exceeded {which}")
        answer.headers["Retry-After"] = str(retry_after)
        if surface == "v2" and which == "for the minute window":
            answer.headers["RateLimit"] = f'"minute";r=0;t={retry_after}'
        return answer

    def _admin_error(self, surface: str, scope: Scope) -> Response | None:
        """The test API needs a key of the account; a pod's key is not enough.

        The test API can start commands in pods.
        """
        key = _key_of(scope)
        if surface != "admin" or (key is not None and self._runtime.simulator.account.knows_key(key)):
            return None
        return error_response(surface, 401, "the test API needs the account's API key as a bearer token")

    def _unauthorized(self, surface: str, scope: Scope) -> Response | None:
        key = _key_of(scope)
        if key is None:
            # GraphQL serves its public catalogue without a key; private fields are null.
            scope["fake.caller"] = ApiCaller(is_known=False)
            return None if surface == "graphql" else error_response(surface, 401, "missing bearer token")
        if self._runtime.simulator.account.knows_key(key):
            scope["fake.caller"] = ApiCaller()
            return None
        pod = next((pod for pod in self._runtime.simulator.all_pods() if pod.api_key == key), None)
        if pod is None:
            return error_response(surface, 401, "invalid bearer token" if surface == "v2" else "Unauthorized")
        scope["fake.caller"] = ApiCaller(pod.id)
        if pod.id in scope["path"].split("/") or surface == "graphql":
            return None
        return error_response(surface, 403, "access denied")

    def _with_quota(self, send: Send, decision: QuotaDecision) -> Send:
        extra = [(b"ratelimit-policy", self._limiter.quotas.policy.encode())]

        async def quoted(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = {name.lower() for name, _ in message["headers"]}
                added = extra if b"ratelimit" in names else [*extra, (b"ratelimit", decision.header.encode())]
                message["headers"] = [*message["headers"], *added]
            await send(message)

        return quoted


def _delayed(send: Send, seconds: float) -> Send:
    async def late(message: Message) -> None:
        if message["type"] == "http.response.start":
            await asyncio.sleep(seconds)
        await send(message)

    return late


def _key_of(scope: Scope) -> str | None:
    """The bearer token, or GraphQL's `?api_key=`; None when there is none."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            kind, _, token = value.decode("latin-1").partition(" ")
            return token.strip() if kind.lower() == "bearer" and token.strip() else None
    if scope["path"].startswith("/graphql"):
        keys = parse_qs(scope["query_string"].decode("latin-1")).get("api_key")
        return keys[0] if keys else None
    return None
