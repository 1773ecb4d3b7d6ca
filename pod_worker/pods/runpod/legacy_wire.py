"""Wire pieces that REST v1 and GraphQL share: the error texts and the CUDA list.

RunPod retires both APIs (v1 answers 410 from 15 Nov 2026, GraphQL ends in early 2027). The v2 adapter uses
nothing from here.
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


def legacy_error(status: int, reason: str, what: str) -> ProviderError:
    """The error of a v1 or GraphQL reply.

    The text decides first: v1 reports missing capacity as HTTP 500.
    """
    message = f"{what}: {status} {reason}".strip()
    if status == 429:
        return RateLimitedError(message, wait_seconds=60.0)
    if status == 410:
        return ApiRetiredError(f"{message}; this API is switched off: set RUNPOD_REST_VERSION=v2", status=status)
    if is_capacity_text(reason):
        return NoCapacityError(message, status=status)
    if is_balance_text(reason):
        return InsufficientBalanceError(message, status=status)
    make = _BY_STATUS.get(status, InvalidRequestError if 400 <= status < 500 else ServerError)
    return make(message, status=status)


def cuda_versions_from(minimum: str) -> list[str]:
    """All known versions from `minimum` on, compared as numbers: 12.10 > 12.2."""
    return [version for version in CUDA_VERSIONS if _number(version) >= _number(minimum)] or [minimum]


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
