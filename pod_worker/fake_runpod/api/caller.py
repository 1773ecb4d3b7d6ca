"""The identity behind one request: the account, one pod, or no known key."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ApiCaller:
    """`pod_id` None is the account.

    Otherwise the pod whose environment holds the key that was sent.
    """

    pod_id: str | None = None
    is_known: bool = True
