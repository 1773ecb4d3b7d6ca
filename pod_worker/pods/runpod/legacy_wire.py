"""Wire pieces that REST v1 and GraphQL share: the error texts, the CUDA list and the flat create fields.

Both APIs are on their way out (v1 was announced to answer 410 from 15 Nov 2026, GraphQL to follow in early 2027);
nothing here is used by the v2 adapter.
"""

from __future__ import annotations

from collections.abc import Callable

from pod_worker.pods.errors import (
    ApiRetiredError,
    ForbiddenError,
    InsufficientBalanceError,
    InvalidRequestError,
    NoCapacityError,
    PodNotFoundError,
    ProviderError,
    RateLimitedError,
    ServerError,
    StateConflictError,
    UnauthorizedError,
    is_balance_text,
    is_capacity_text,
)

CUDA_VERSIONS = ("11.8", *(f"12.{minor}" for minor in range(10)), "13.0")
"""What both APIs accept in allowedCudaVersions; there is no minimum field that all accounts have."""

_BY_STATUS: dict[int, Callable[..., ProviderError]] = {
    400: InvalidRequestError,
    401: UnauthorizedError,
    402: InsufficientBalanceError,
    403: ForbiddenError,
    404: PodNotFoundError,
    408: ServerError,
    409: StateConflictError,
    410: ApiRetiredError,
    422: InvalidRequestError,
}


def legacy_error(status: int, said: str, what: str) -> ProviderError:
    """v1 tells a lack of machines with HTTP 500, so the text comes before the status."""
    message = f"{what}: {status} {said}".strip()
    if status == 429:
        return RateLimitedError(message, wait_seconds=60.0)
    if status == 410:
        return ApiRetiredError(f"{message}; this API is switched off: set RUNPOD_REST_VERSION=v2", status=status)
    if is_capacity_text(said):
        return NoCapacityError(message, status=status)
    if is_balance_text(said):
        return InsufficientBalanceError(message, status=status)
    make = _BY_STATUS.get(status, InvalidRequestError if 400 <= status < 500 else ServerError)
    return make(message, status=status)


def cuda_versions_from(minimum: str) -> list[str]:
    """All known versions at or above `minimum`, compared as numbers (12.10 is above 12.2)."""
    return [version for version in CUDA_VERSIONS if _number(version) >= _number(minimum)] or [minimum]


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
