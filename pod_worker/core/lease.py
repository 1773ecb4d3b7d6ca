"""A lease: the right of one worker to one attempt of one run, for a limited time.

The database decides when a lease ends, by its own clock; the holder trusts the lease for less time than the
database does, measured on its own monotonic clock from *before* the request was sent (River's leadership
design, riverqueue/river internal/leadership). In the time between the two, a worker that cannot renew must stop
its child, so that the GPU is free.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Fence:
    """The filter of every write of an attempt.

    Zero rows matched means that the attempt is over.
    """

    run_id: str
    attempt: int
    token: str


@dataclass(frozen=True, slots=True)
class UnleasedRun:
    """Writes for a run that no worker holds, as a person does by hand."""

    run_id: str
    attempt: int


RunWriter: TypeAlias = Fence | UnleasedRun


@dataclass(frozen=True, slots=True)
class Lease:
    fence: Fence
    seconds: float  # length granted by the database at each renewal
    margin_seconds: float  # how long before the database's end the holder stops trusting it
    asked_at: float  # monotonic seconds at which the granting request was sent

    @property
    def trusted_until(self) -> float:
        return self.asked_at + self.seconds - self.margin_seconds

    def is_trusted(self, monotonic: float) -> bool:
        return monotonic < self.trusted_until

    def renewed(self, asked_at: float) -> Lease:
        return replace(self, asked_at=asked_at)


class RenewalResult(StrEnum):
    """The only channel from the control plane to a pod."""

    OK = "ok"
    CANCEL = "cancel"  # the end of the run was requested
    LOST = "lost"  # the attempt is over for this worker: stop, write nothing more
