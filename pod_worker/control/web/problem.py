"""Every refusal over HTTP in one shape: problem+json (RFC 9457).

With a code for programs and a text for people.

Raise `ProblemError` anywhere below a route; the app turns it into the response. It never carries a secret.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pymongo.errors import PyMongoError
from starlette.exceptions import HTTPException

from pod_worker.artifacts.object_store import ObjectStoreError
from pod_worker.core.run import Json
from pod_worker.store.errors import ENCODING_ERRORS, describe_error, is_permanent_error

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 2
log = logging.getLogger(__name__)


class ProblemError(Exception):
    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Json] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail
        self.headers, self.extra = dict(headers or {}), dict(extra or {})


def response_to(problem: ProblemError, instance: str) -> Response:
    title = HTTPStatus(problem.status).phrase
    body: dict[str, Json] = {
        "type": f"urn:pod-worker:problem:{problem.code.replace('_', '-')}",
        "title": title,
        "status": problem.status,
        "detail": _encodable(problem.detail),
        "code": problem.code,
        "errors": [],
        "instance": _encodable(instance),
    }
    return JSONResponse(body | problem.extra, problem.status, problem.headers, MEDIA_TYPE)


def _encodable(text: str) -> str:
    """Without lone surrogates, which JSON may carry and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode()


def response_for_error(error: Exception, instance: str) -> Response:
    """The response to any exception.

    One that is not expected is logged and becomes a 500.
    """
    return response_to(_problem_for(error), instance)


def _problem_for(error: Exception) -> ProblemError:
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, ENCODING_ERRORS) or is_permanent_error(error):
        return ProblemError(422, "unstorable", describe_error(error)[:500])
    if isinstance(error, PyMongoError):
        return database_unavailable(error)
    if isinstance(error, ObjectStoreError):
        return ProblemError(503, "store_away", str(error), headers={"Retry-After": "2"})
    log.error("unexpected error in a request", exc_info=error)
    return ProblemError(500, "internal", "unexpected error in the control plane: see its log")


def database_unavailable(error: PyMongoError) -> ProblemError:
    detail = f"{describe_error(error)}: nothing was acknowledged, send it again"
    return ProblemError(503, "database_away", detail, headers={"Retry-After": str(RETRY_SECONDS)})


def install(app: FastAPI) -> None:
    """Make every error of every route a problem."""

    def any_error(request: Request, error: Exception) -> Response:
        return response_for_error(error, request.url.path)

    def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        problem = ProblemError(
            error.status_code, _code(error.status_code), str(error.detail), headers=error.headers
        )
        return response_to(problem, request.url.path)

    def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        problem = ProblemError(422, "bad_request", "; ".join(_messages(error.errors())[:3]))
        return response_to(problem, request.url.path)

    for kind in (ProblemError, PyMongoError, ObjectStoreError, *ENCODING_ERRORS):
        app.add_exception_handler(kind, any_error)
    app.add_exception_handler(Exception, any_error)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)


def _messages(errors: Sequence[Json]) -> list[str]:
    return [f"{'.'.join(str(part) for part in each['loc'][1:])}: {each['msg']}"[:300] for each in errors]


def _code(status: int) -> str:
    return HTTPStatus(status).name.lower()
