"""The app: the admission layer, and a direct call of the busiest routes.

FastAPI's middlewares, routing and dependencies take as long as decoding a batch of events. A fast route is listed
in the OpenAPI document like any other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from pod_worker.control.web.admission import LIVE_SUFFIX, REQUEST, Admission
from pod_worker.control.web.problem import response_for_error

Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]


class ControlPlaneApp(FastAPI):
    def __init__(self, admission: Admission, **settings: Any) -> None:
        super().__init__(**settings)
        self._admission = admission
        self._fast: dict[str, Endpoint] = {}

    def add_fast_route(self, path: str, endpoint: Endpoint, status: int, tag: str) -> None:
        """POST only. The endpoint bounds and reads the body. It may raise any exception."""
        self.add_api_route(path, endpoint, methods=["POST"], status_code=status, tags=[tag])
        self._fast[path] = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        if scope["method"] == "HEAD" and not scope["path"].endswith(LIVE_SUFFIX):
            scope, send = {**scope, "method": "GET"}, _without_body(send)
        is_fast = scope["path"] in self._fast and scope["method"] == "POST"
        app = self._call_fast if is_fast else super().__call__
        await self._admission(app, scope, receive, send, reads_body=is_fast)

    async def _call_fast(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await self._fast[scope["path"]](scope[REQUEST])
        except ClientDisconnect:
            return
        except Exception as error:
            response = response_for_error(error, scope["path"])
        await response(scope, receive, send)


def _without_body(send: Send) -> Send:
    """The response to a HEAD request: that of GET without its body."""

    async def head_only(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return head_only
