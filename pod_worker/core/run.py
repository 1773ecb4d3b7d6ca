"""A run as data, its states, and the table that says which state may follow which.

A `Run` is a frozen copy of the document at one moment. Only the queue (`store.queue`) and, for foreign emitters,
the projections change `status`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeAlias

# An open JSON value, only for what is open by contract (params, summaries, state). Codecs check that it is finite
# and encodable. msgspec cannot read a recursive alias.
Json: TypeAlias = Any

DEFAULT_MAX_ATTEMPTS = 5

# A MongoDB document holds 16 MiB. The budgets leave room for checkpoints, views and errors beside the parameters.
PARAMS_LIMIT_BYTES = 8 * 1024 * 1024
CHECKPOINT_STATE_LIMIT_BYTES = 256 * 1024  # of one stage, as JSON

TIME_LIMIT_SECONDS = 10 * 366 * 86_400.0  # the longest max_queue_time and max_duration


class InvalidRunError(ValueError):
    """The run cannot be stored or addressed; the message names the field and the fix."""


class RunStatus(StrEnum):
    QUEUED = "QUEUED"
    SCHEDULED = "SCHEDULED"
    RUNNING = "RUNNING"
    AUTO_VALIDATING = "AUTO_VALIDATING"
    AWAITING_HUMAN = "AWAITING_HUMAN"
    HUMAN_VALIDATED = "HUMAN_VALIDATED"
    HUMAN_REJECTED = "HUMAN_REJECTED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"

    @classmethod
    def parse(cls, word: str) -> RunStatus:
        """Also reads STARTING, which older databases hold. Raises ValueError."""
        return cls.SCHEDULED if word == "STARTING" else cls(word)


_S = RunStatus
_ENDS = frozenset({_S.FAILED, _S.CANCELED})
_REVIEW_RESULTS = frozenset({_S.HUMAN_VALIDATED, _S.HUMAN_REJECTED})

TRANSITIONS: dict[RunStatus, frozenset[RunStatus]] = {
    _S.QUEUED: frozenset({_S.SCHEDULED}) | _ENDS,
    _S.SCHEDULED: frozenset({_S.QUEUED, _S.RUNNING, _S.COMPLETED}) | _ENDS,
    _S.RUNNING: frozenset({_S.QUEUED, _S.AUTO_VALIDATING, _S.COMPLETED}) | _ENDS,
    _S.AUTO_VALIDATING: frozenset({_S.QUEUED, _S.AWAITING_HUMAN, _S.COMPLETED}) | _ENDS,
    _S.AWAITING_HUMAN: _REVIEW_RESULTS | _ENDS,
    # A finished run may still be reviewed; the original's data is full of those.
    _S.COMPLETED: frozenset({_S.AUTO_VALIDATING, _S.AWAITING_HUMAN}) | _REVIEW_RESULTS,
    _S.HUMAN_VALIDATED: frozenset(),
    _S.HUMAN_REJECTED: frozenset(),
    _S.FAILED: frozenset(),
    _S.CANCELED: frozenset(),
}

ACTIVE = frozenset({_S.SCHEDULED, _S.RUNNING, _S.AUTO_VALIDATING})  # a worker holds a lease
ENDED_WELL = frozenset({_S.COMPLETED, _S.AWAITING_HUMAN, _S.HUMAN_VALIDATED})  # for a run that waits for this one
UNATTENDED = ACTIVE | {_S.QUEUED}  # goes on without a person
TERMINAL = frozenset({_S.COMPLETED, _S.FAILED, _S.CANCELED}) | _REVIEW_RESULTS


# The queue alone fails a run that waits (start deadline, dependency). A worker's event that reports it is late:
# it belongs to the attempt before the run was queued again.
_NEVER_REPORTED = frozenset({(_S.QUEUED, _S.FAILED)})


def reported_predecessors(to: RunStatus) -> frozenset[RunStatus]:
    """The states from which an event may move a run to `to`."""
    return frozenset(
        state for state in RunStatus if to in TRANSITIONS[state] and (state, to) not in _NEVER_REPORTED
    )


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far an attempt came in a stage; the next attempt skips one that is `done`."""

    stage: str
    done: bool
    state: dict[str, Json] = field(default_factory=dict)
    attempt: int = 0


class AfterFailure(StrEnum):
    """What becomes of a run when one that it waits for ends badly."""

    FAIL = "fail"
    SKIP = "skip"  # it is canceled


@dataclass(frozen=True, slots=True)
class Requirements:
    """What a pod must have to claim the run; None means no requirement."""

    gpu: str | None = None
    min_vram_gb: float | None = None
    region: str | None = None
    max_vram_gb: float | None = None
    gpu_count: int | None = None
    cpus: float | None = None
    memory_gb: float | None = None
    disk_gb: float | None = None


@dataclass(frozen=True, slots=True)
class Run:
    id: str
    pipeline: str
    queue: str
    status: RunStatus
    params: dict[str, Json]
    attempt: int = 0
    priority: int = 0
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    retry_count: int = 0
    crash_count: int = 0
    hypothesis_id: str | None = None
    checkpoints: dict[str, Checkpoint] = field(default_factory=dict)
    requirements: Requirements = Requirements()
    queued_at: datetime | None = None
    run_after: datetime | None = None
    created_at: datetime | None = None
    claimed_by: str | None = None
    lease_expires_at: datetime | None = None
    cancel_requested_at: datetime | None = None
    error_code: str | None = None
    error_message: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    name: str | None = None
    after: tuple[str, ...] = ()  # ids of the runs that had to end well first
    blocked_by: tuple[str, ...] = ()  # those of them that have not yet
    after_failure: AfterFailure = AfterFailure.FAIL
    max_queue_seconds: float | None = None
    max_duration_seconds: float | None = None  # of one attempt
    retry_on: tuple[str, ...] | None = None  # words of `core.retry`; None: the failure table alone decides
    exit_code: int | None = None  # of the user's program in the last attempt

    def is_done(self, stage: str) -> bool:
        found = self.checkpoints.get(stage)
        return found is not None and found.done

    @property
    def failed_attempts(self) -> int:
        """Failed attempts since an operator queued the run.

        Crashes count since the last checkpoint only.
        """
        return self.retry_count + self.crash_count
