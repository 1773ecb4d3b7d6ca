"""The intent to rent a pod, recorded before the request.

Therefore no crash can hide a pod that bills.

An intent names one create attempt by a pod name that is never used twice. Its state says whether a pod of that
name may live. Transitions are compare-and-set, and at most one intent of an order may be CREATED. This module
knows no provider and no database. PENDING and UNCERTAIN keep their former stored values, OPEN and DOUBTFUL.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol


class IntentState(StrEnum):
    PENDING = "OPEN"
    """A create request is about to be sent, or was sent and its outcome is unknown."""
    UNCERTAIN = "DOUBTFUL"
    """Its pod did not appear in time and the launcher went on without it; it may still appear late."""
    CREATED = "CREATED"
    """Its pod exists and is in use: `pod_id` says which."""
    FAILED = "FAILED"
    """The provider refused the create; no pod is expected."""
    RETIRED = "RETIRED"
    """Its pod is not in use; every pod with the name is terminated, again and again until it is gone."""


INTENT_TRANSITIONS: Mapping[IntentState, frozenset[IntentState]] = {
    IntentState.PENDING: frozenset(IntentState) - {IntentState.PENDING},
    IntentState.UNCERTAIN: frozenset({IntentState.CREATED, IntentState.RETIRED}),
    IntentState.CREATED: frozenset({IntentState.RETIRED}),
    IntentState.FAILED: frozenset({IntentState.RETIRED}),
    IntentState.RETIRED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class PodIntent:
    """One attempt of one order.

    `name` is the pod's name at the provider and the intent's identity.
    """

    name: str
    order_id: str
    attempt: int
    recorded_at: datetime
    placement: str
    """Candidate in words (GPU, cloud, data center, volume), for people who read the log."""
    state: IntentState = IntentState.PENDING
    pod_id: str | None = None
    note: str = ""


class IntentConflictError(Exception):
    """Another launcher recorded this attempt of the order."""

    def __init__(self, order_id: str, attempt: int) -> None:
        super().__init__(
            f"Attempt {attempt} of pod order {order_id} is recorded already: another launcher works on it. "
            "Wait for it, or use a new order id for a second pod."
        )


class UnreadableIntentError(Exception):
    """A stored intent cannot be read, so whether its pod may live is unknown."""

    def __init__(self, name: str, fault: str) -> None:
        super().__init__(
            f"The intent {name!r} cannot be read: {fault}. Correct or delete it, after checking at the provider "
            "whether a pod of that name runs."
        )


class IntentLog(Protocol):
    """The durable log of intents.

    Every method raises when the store cannot be reached; none may guess.
    """

    def record(self, intent: PodIntent) -> None:
        """Store a new intent durably before returning.

        Raises IntentConflictError for a taken (order, attempt).
        """

    def advance(
        self,
        name: str,
        *,
        expect: Collection[IntentState],
        to: IntentState,
        pod_id: str | None = None,
        note: str = "",
    ) -> bool:
        """Compare-and-set; whether the state was changed.

        False when the state is not one of `expect`, or when `to` is CREATED and another intent of the
        same order already is.
        """

    def of_order(self, order_id: str) -> Sequence[PodIntent]:
        """All intents of an order, oldest first.

        Raises UnreadableIntentError: an unread pod could bill unseen.
        """

    def named(self, names: Collection[str]) -> Mapping[str, PodIntent]:
        """The intents among `names` that exist and can be read."""

    def of_pod(self, pod_id: str) -> PodIntent | None:
        """The intent that recorded this pod as its own. Raises UnreadableIntentError."""
