"""JSON responses, and the error format of each API surface.

Errors are problem+json on v2 and `{error, status}` on v1. GraphQL formats its own errors (HTTP 200 with
`errors`); before a query is parsed it uses `graphql_error`.
"""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from pod_worker.core.run import Json
from pod_worker.fake_runpod.errors import NO_INSTANCES, ApiError, ApiErrorKind

TITLES = {
    400: "Bad Request",
    401: "Unauthorized",
    402: "Payment Required",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    410: "Gone",
    422: "Unprocessable Entity",
    429: "Too Many Requests",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}
V2_STATUS = {
    ApiErrorKind.INVALID: 422,
    ApiErrorKind.RULE: 400,
    ApiErrorKind.CAPACITY: 400,
    ApiErrorKind.BALANCE: 402,
    ApiErrorKind.FORBIDDEN: 403,
    ApiErrorKind.NOT_FOUND: 404,
    ApiErrorKind.STATE: 409,
    ApiErrorKind.SERVER: 500,
}
V1_STATUS = V2_STATUS | {
    ApiErrorKind.INVALID: 400,
    ApiErrorKind.CAPACITY: 500,
    ApiErrorKind.STATE: 400,
    ApiErrorKind.BALANCE: 500,
}
HTML = "<html><head><title>{0}</title></head><body><center><h1>{0}</h1></center></body></html>\r\n"


def json_response(body: Json, status: int = 200, media_type: str = "application/json") -> Response:
    return Response(msgspec.json.encode(body), status, media_type=media_type)


def no_content() -> Response:
    """204 without body and content type: a JSON content type breaks real clients."""
    return Response(status_code=204)


def problem(status: int, detail: str, errors: tuple[str, ...] = ()) -> Response:
    body: dict[str, Json] = {"title": TITLES.get(status, "Error"), "status": status, "detail": detail}
    if errors:
        body["errors"] = list(errors)
    return json_response(body, status, "application/problem+json")


def plain_error(status: int, message: str) -> Response:
    """v1's documented form for 401, and its observed form for other statuses."""
    if status == 401:
        return json_response({"message": message}, status)
    return json_response({"error": message, "status": status}, status)


def graphql_error(status: int, message: str) -> Response:
    return json_response({"errors": [{"message": message, "extensions": {"code": "RUNPOD"}}]}, status)


def html_error(status: int) -> Response:
    """The response of a proxy whose upstream does not respond."""
    text = HTML.format(f"{status} {TITLES.get(status, 'Error')}")
    return Response(text, status, media_type="text/html")


def error_response(surface: str, status: int, message: str) -> Response:
    if surface == "v2":
        return problem(status, message)
    return graphql_error(status, message) if surface == "graphql" else plain_error(status, message)


def api_error_response(surface: str, error: ApiError) -> Response:
    if surface == "v2":
        return problem(V2_STATUS[error.kind], error.detail, error.errors)
    detail = "; ".join(error.errors) or error.detail
    if error.detail == NO_INSTANCES:
        detail = f"create pod: {detail}"
    return plain_error(V1_STATUS[error.kind], detail)
