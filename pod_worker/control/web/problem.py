"""Every refusal over HTTP in one shape: problem+json (RFC 9457), with a code for programs and a text for people.

Raise `ProblemError` anywhere below a route; the app turns it into the answer. It never carries a secret.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pymongo.errors import PyMongoError
from starlette.exceptions import HTTPException

from pod_worker.core.run import Json

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 2


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
        "detail": problem.detail,
        "code": problem.code,
        "errors": [],
        "instance": instance,
    }
    return JSONResponse(body | problem.extra, problem.status, problem.headers, MEDIA_TYPE)


def response_for_error(error: Exception, instance: str) -> Response | None:
    """None for what is nobody's answer but a mistake of ours."""
    if isinstance(error, PyMongoError):
        error = database_away(error)
    return response_to(error, instance) if isinstance(error, ProblemError) else None


def database_away(error: PyMongoError) -> ProblemError:
    detail = f"MongoDB does not answer ({type(error).__name__}): nothing was acknowledged, send it again"
    return ProblemError(503, "database_away", detail, headers={"Retry-After": str(RETRY_SECONDS)})


def install(app: FastAPI) -> None:
    """Answer every error of every route in this shape."""

    def expected(request: Request, error: Exception) -> Response:
        answer = response_for_error(error, request.url.path)
        assert answer is not None
        return answer

    def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        said = ProblemError(error.status_code, _code(error.status_code), str(error.detail), headers=error.headers)
        return response_to(said, request.url.path)

    def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        said = ProblemError(422, "bad_request", "; ".join(_messages(error.errors())[:3]))
        return response_to(said, request.url.path)

    app.add_exception_handler(ProblemError, expected)
    app.add_exception_handler(PyMongoError, expected)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)


def _messages(errors: Sequence[Json]) -> list[str]:
    return [f"{'.'.join(str(part) for part in each['loc'][1:])}: {each['msg']}" for each in errors]


def _code(status: int) -> str:
    return HTTPStatus(status).name.lower()
