"""Provider errors by meaning; each class has the caller's recovery action.

Adapters translate status codes and texts into these classes; callers act on the class or its `remedy`. Messages
contain the provider's text, truncated and without the API key.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import ClassVar


class RecoveryAction(Enum):
    NEXT_CANDIDATE = "try the next candidate and let this one cool down"
    SKIP_CANDIDATE = "skip this candidate"
    STOP = "stop: the request itself is wrong"
    STOP_ALL = "stop every launch on this account"
    WAIT = "wait, then send the same request again"
    CHECK_BY_NAME = "look the pod up by name before any retry"
    REFRESH = "read the pod's state again before deciding"
    CHANGE_API = "switch to another API version"


class ProviderError(Exception):
    """Base of all provider errors.

    `status` is the HTTP status, 0 where there was none.
    """

    remedy: ClassVar[RecoveryAction]

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class NoCapacityError(ProviderError):
    """No machine of this kind is free just now."""

    remedy = RecoveryAction.NEXT_CANDIDATE


class RequestRejectedError(ProviderError):
    """A rule forbids this combination of GPU, cloud, data center and volume."""

    remedy = RecoveryAction.SKIP_CANDIDATE


class ForbiddenError(ProviderError):
    """The key lacks permission; other candidates may still be permitted."""

    remedy = RecoveryAction.SKIP_CANDIDATE


class InvalidRequestError(ProviderError):
    """The request is malformed; a retry cannot succeed."""

    remedy = RecoveryAction.STOP


class UnauthorizedError(ProviderError):
    """The key is missing, wrong or revoked."""

    remedy = RecoveryAction.STOP_ALL


class InsufficientBalanceError(ProviderError):
    """The account is out of credit or at its spend limit."""

    remedy = RecoveryAction.STOP_ALL


class RateLimitedError(ProviderError):
    """Too many requests; nothing was done. `wait_seconds`: the provider's Retry-After."""

    remedy = RecoveryAction.WAIT

    def __init__(self, message: str, *, wait_seconds: float, status: int = 429) -> None:
        super().__init__(message, status=status)
        self.wait_seconds = wait_seconds


class ServerError(ProviderError):
    """The outcome is unknown: the request may or may not have taken effect."""

    remedy = RecoveryAction.CHECK_BY_NAME


class UnreachableError(ServerError):
    """No reply.

    `sent` is False only if no connection was made, so the request had no effect.
    """

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class PodNotFoundError(ProviderError):
    """The provider has no such pod.

    Right after a create this is no proof: new pods appear with a lag.
    """

    remedy = RecoveryAction.REFRESH


class StateConflictError(ProviderError):
    """The pod's present state does not allow this action."""

    remedy = RecoveryAction.REFRESH


class ApiRetiredError(ProviderError):
    """This API version is retired (HTTP 410)."""

    remedy = RecoveryAction.CHANGE_API


class UnsupportedError(ProviderError):
    """This API version does not have the operation."""

    remedy = RecoveryAction.CHANGE_API


# Texts seen from REST v1, REST v2 and GraphQL; there is no machine-readable code for missing capacity.
_CAPACITY_TEXT = re.compile(
    r"no (longer any |available )?(instances|machines|gpus|capacity)\b"
    r"|not enough (free )?(gpus|capacity|resources)"
    r"|(insufficient|out of) (capacity|stock|resources)"
    r"|no .{0,40}(currently |is |are )available"
    r"|does(n.t| not) have the resources"
    r"|capacity (error|unavailable)"
    r"|could not find any pods with required specifications",
    re.IGNORECASE,
)
_BALANCE_TEXT = re.compile(
    r"(insufficient|not enough|negative) (funds|balance|credit)|spend(ing)? limit", re.IGNORECASE
)

_MISSING_TEXT = re.compile(r"\bnot found\b|does not exist|no such pod", re.IGNORECASE)


def is_capacity_text(text: str) -> bool:
    return _CAPACITY_TEXT.search(text) is not None


def is_balance_text(text: str) -> bool:
    return _BALANCE_TEXT.search(text) is not None


def is_missing_text(text: str) -> bool:
    return _MISSING_TEXT.search(text) is not None
