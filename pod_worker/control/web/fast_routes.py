"""The app, with a shorter way to the routes that are called hundreds of times a second.

FastAPI's middlewares, routing and dependencies take as long as reading a batch of events does. A fast route is
listed like any other, and called at once: what it needs to know of a request it asks the request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from pod_worker.control.web.problem import response_for_error

Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]


class ControlPlaneApp(FastAPI):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._fast: dict[str, Endpoint] = {}

    def add_fast_route(self, path: str, endpoint: Endpoint, status: int, tag: str) -> None:
        """POST only. It raises `ProblemError` or PyMongoError like any other."""
        self.add_api_route(path, endpoint, methods=["POST"], status_code=status, tags=[tag])
        self._fast[path] = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._fast.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if endpoint is None:
            await super().__call__(scope, receive, send)
            return
        try:
            answer = await endpoint(Request(scope, receive))
        except Exception as error:
            known = response_for_error(error, scope["path"])
            if known is None:
                raise
            answer = known
        await answer(scope, receive, send)
