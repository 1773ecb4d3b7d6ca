"""One worker's dated right to one attempt of one run.

The database decides when a lease ends, by its own clock; the holder trusts the lease for less time than the
database does, measured on its own monotonic clock from *before* the request was sent (River's leadership
design, riverqueue/river internal/leadership). Between the two lies the time in which a worker that cannot renew
must make its GPU free.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Fence:
    """The filter of every write that an attempt causes. Zero rows matched means the attempt is over."""

    run_id: str
    attempt: int
    token: str


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
    """The control plane's only way to talk back to a pod."""

    OK = "ok"
    CANCEL = "cancel"  # somebody asked for the run's end
    LOST = "lost"  # the attempt is no longer ours: stop, write nothing more
