"""The layer in front of every route: the key, then limits.

It limits bodies, time and concurrency.

A route is protected because it exists; only the public paths below need no key. Bodies of all routes except ingest
are read here, after the key was checked and up to a limit. Limits of headers and connections hold in `protocol`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pod_worker.control.web.auth import SAFE_METHODS, Authorizer, Caller, other_attempt
from pod_worker.control.web.body import read_body
from pod_worker.control.web.problem import RETRY_SECONDS, ProblemError, response_to

CALLER = "pod_worker.caller"  # where the ASGI scope keeps the caller
REQUEST = "pod_worker.request"  # and the request, whose headers are decoded once
PUBLIC_PATHS = frozenset({"/healthz", "/readyz", "/api/health", "/openapi.json"})
PUBLIC_FOLDER = "/static/"
LIVE_SUFFIX = "/live"
ARTIFACT_SUFFIXES = ("/presign", "/finalize", "/abort")
CONTENT_FOLDER = "/api/content/"
KIB = 1024


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Limits.

    `concurrent` requests at once, live views apart, which have a limit of their own.
    """

    body_bytes: int = 64 * KIB
    artifact_body_bytes: int = 2048 * KIB  # lists up to 10 000 parts of an upload
    content_body_bytes: int = 32 * 1024 * KIB  # a manifest, or the list of files in a pack
    concurrent: int = 512


class Admission:
    """Admits requests to the routes behind it. For one event loop."""

    def __init__(self, authorizer: Authorizer, limits: RequestLimits | None = None) -> None:
        self._authorizer = authorizer
        self._limits = limits or RequestLimits()
        self._active = 0

    async def __call__(
        self, app: ASGIApp, scope: Scope, receive: Receive, send: Send, *, reads_body: bool
    ) -> None:
        """Call `app` with an admitted request.

        `reads_body` when the route reads the body with its own limit.
        """
        try:
            scope[REQUEST] = request = Request(scope, receive)
            if not _is_public(scope["path"]):
                scope[CALLER] = self._authorizer.authorize(request)
            if scope["path"].endswith(LIVE_SUFFIX):
                await app(scope, receive, send)
                return
            self._check_room()
        except ProblemError as error:
            await response_to(error, scope["path"])(scope, receive, send)
            return
        self._active += 1
        try:
            if not reads_body and scope["method"] not in SAFE_METHODS:
                receive = await self._bounded(request, receive)
            await app(scope, receive, send)
        except ProblemError as error:
            await response_to(error, scope["path"])(scope, receive, send)
        except ClientDisconnect:
            return
        finally:
            self._active -= 1

    def _check_room(self) -> None:
        if self._active >= self._limits.concurrent:
            wait = {"Retry-After": str(RETRY_SECONDS)}
            raise ProblemError(503, "busy", "too many requests are in progress: send it again", headers=wait)

    async def _bounded(self, request: Request, receive: Receive) -> Receive:
        """Read the body up to its limit; returns a `receive` that repeats it.

        Raises ProblemError.
        """
        is_artifact = request.scope["path"].endswith(ARTIFACT_SUFFIXES)
        limit = self._limits.artifact_body_bytes if is_artifact else self._limits.body_bytes
        if request.scope["path"].startswith(CONTENT_FOLDER):
            limit = self._limits.content_body_bytes
        body = await read_body(request.stream(), request.headers, limit)
        caller: Caller | None = request.scope.get(CALLER)
        if is_artifact and caller is not None and caller.attempt is not None:
            _check_attempt(caller, body)
        return _repeat(body, receive)


async def require_admission(request: Request) -> Caller:
    """A FastAPI dependency: the caller of an admitted request.

    Raises ProblemError 401 outside the layer.
    """
    caller: Caller | None = request.scope.get(CALLER)
    if caller is None:
        raise ProblemError(401, "no_key", "the request was not admitted")
    return caller


def _is_public(path: str) -> bool:
    return path in PUBLIC_PATHS or path.startswith(PUBLIC_FOLDER)


def _check_attempt(caller: Caller, body: bytes) -> None:
    """The attempt that an artifact request names must be the caller's.

    A download needs none.
    """
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        raise ProblemError(422, "bad_request", "the body is not JSON") from None
    if not isinstance(fields, dict):
        raise ProblemError(422, "bad_request", "the body is not a JSON object")
    attempt = fields.get("attempt")
    is_read = fields.get("action") == "get" and attempt is None
    if not is_read and not (type(attempt) is int and attempt == caller.attempt):
        raise other_attempt()


def _repeat(body: bytes, receive: Receive) -> Receive:
    is_sent = False

    async def repeated() -> Message:
        nonlocal is_sent
        if is_sent:
            return await receive()
        is_sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return repeated
