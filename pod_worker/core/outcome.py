"""How an attempt ended: a closed set of values, each settled in one way.

An outcome is neither an event nor a status. `RunQueue.settle` derives status and budgets from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from pod_worker.core.failure import Failure
from pod_worker.core.run import Json


@dataclass(frozen=True, slots=True)
class Succeeded:
    summary: dict[str, Json] = field(default_factory=dict)
    awaits_review: bool = False  # a person decides what the result is worth


@dataclass(frozen=True, slots=True)
class Failed:
    failure: Failure


@dataclass(frozen=True, slots=True)
class Canceled:
    by: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Released:
    """Returned unfinished (drain, preemption): queued again, no budget spent."""

    reason: str


@dataclass(frozen=True, slots=True)
class Lost:
    """The lease is gone or not trusted any more: nothing may be written to the run."""

    reason: str


Outcome: TypeAlias = Succeeded | Failed | Canceled | Released | Lost
