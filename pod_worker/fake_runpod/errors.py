"""API errors of the fake cloud by kind.

Each API surface has its own representation.

An `ApiError` is an expected response, not a fault of the fake. It never contains a secret.
"""

from __future__ import annotations

from enum import StrEnum

NO_INSTANCES = "There are no instances currently available"
NO_INSTANCES_GRAPHQL = (
    "There are no longer any instances available with the requested specifications. Please refresh and try again."
)
NO_FREE_GPUS = "There are not enough free GPUs on the host machine to start this pod."


class ApiErrorKind(StrEnum):
    INVALID = "invalid"
    """The body does not match the contract: v2 422, v1 and GraphQL 400-like."""
    RULE = "rule"
    """The body matches but violates a cross-field rule: 400."""
    CAPACITY = "capacity"
    BALANCE = "balance"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    STATE = "state"
    """The action does not fit the pod's status: 409."""
    SERVER = "server"


class ApiError(Exception):
    def __init__(self, kind: ApiErrorKind, detail: str, errors: tuple[str, ...] = ()) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.errors = errors


def not_found(noun: str) -> ApiError:
    return ApiError(ApiErrorKind.NOT_FOUND, f"{noun} not found")
