"""The run queue as one small state machine in memory: what each call must answer and what it must leave behind.

Written from the promises, not from the queries: it knows no time (a lease is live or over, a wait is ahead or
past) and no MongoDB. `test_queue_model` holds the real queue to it, call by call.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pod_worker.core.failure import FailureClass, FailureCode
from pod_worker.core.lease import RenewalResult
from pod_worker.core.outcome import Canceled, Failed, Lost, Outcome, Succeeded
from pod_worker.core.run import ACTIVE, TERMINAL, UNATTENDED, RunStatus
from pod_worker.store.queue.operations import ActionResult

S = RunStatus


@dataclass(slots=True)
class ModelRun:
    id: str
    queue: str
    place: float  # in the line: smaller is older
    priority: int = 0
    max_attempts: int = 2
    status: RunStatus = S.QUEUED
    attempt: int = 0
    token: str | None = None
    is_expired: bool = False
    is_cancel_requested: bool = False
    retries: int = 0
    crashes: int = 0
    wait: str = ""  # "" | "ahead" | "past"
    held: str = ""  # the same, for a lease that a reset took from a living holder
    is_hidden: bool = False
    checkpoints: dict[str, bool] = field(default_factory=dict)  # stage -> done
    settled: tuple[str, RunStatus] | None = None  # by which token, as what
    error: str | None = None

    @property
    def is_held(self) -> bool:
        return self.token is not None


@dataclass(frozen=True, slots=True)
class Hold:
    """A fence, and whether it is the real one or a forgery."""

    run_id: str
    attempt: int
    token: str


class QueueModel:
    def __init__(self) -> None:
        self.runs: dict[str, ModelRun] = {}
        self.paused: set[str] = set()
        self._places = 0

    # ── in and claim ────────────────────────────────────────────────────────────────────────────────────

    def enqueue(self, run_id: str, queue: str, priority: int, max_attempts: int) -> None:
        self.runs[run_id] = ModelRun(run_id, queue, self._next_place(), priority, max_attempts)

    def claimable(self, paused: frozenset[str] | set[str] | None = None) -> list[ModelRun]:
        """Everything that a worker of all queues may take, the first in line first."""
        paused = self.paused if paused is None else paused
        free = [
            run
            for run in self.runs.values()
            if run.status is S.QUEUED and not run.is_hidden and run.queue not in paused
            if "ahead" not in (run.wait, run.held)
        ]
        return sorted(free, key=lambda run: (-run.priority, run.place, run.id))

    def claim(self, run_id: str, token: str) -> ModelRun:
        run = self.runs[run_id]
        assert run in self.claimable(paused=frozenset())
        run.status, run.attempt, run.token = S.SCHEDULED, run.attempt + 1, token
        run.is_expired = run.is_cancel_requested = False
        run.wait = run.held = ""
        return run

    # ── the holder's writes ─────────────────────────────────────────────────────────────────────────────

    def holder(self, hold: Hold) -> ModelRun | None:
        """The run, if this is the one fence that may write to it."""
        run = self.runs.get(hold.run_id)
        return run if run and (run.attempt, run.token) == (hold.attempt, hold.token) else None

    def start(self, hold: Hold) -> bool:
        run = self.holder(hold)
        if run:
            run.status = S.RUNNING
        return run is not None

    def renew(self, hold: Hold) -> RenewalResult:
        run = self.holder(hold)
        if run is None or run.is_expired:
            return RenewalResult.LOST
        return RenewalResult.CANCEL if run.is_cancel_requested else RenewalResult.OK

    def checkpoint(self, hold: Hold, stage: str, done: bool) -> bool:
        run = self.holder(hold)
        if run:
            run.checkpoints[stage] = done
            run.crashes = 0
        return run is not None

    def settle(self, hold: Hold, outcome: Outcome) -> RunStatus | None:
        """What the run became, the same again when it is asked again; None: it was not ours."""
        if isinstance(outcome, Lost):
            return None
        run = self.holder(hold)
        if run is None:
            known = self.runs.get(hold.run_id)
            is_ours = known is not None and known.settled is not None and known.settled[0] == hold.token
            return known.settled[1] if is_ours and known and known.settled else None
        self._end(run, outcome)
        run.settled = (hold.token, run.status)
        self._let_go(run)
        return run.status

    def _end(self, run: ModelRun, outcome: Outcome) -> None:
        if isinstance(outcome, Succeeded):
            run.status, run.error = S.COMPLETED, None
        elif isinstance(outcome, Canceled) or run.is_cancel_requested:
            run.status = S.CANCELED
        elif isinstance(outcome, Failed):
            self._fail(run, outcome.failure.code)
        else:
            run.status = S.QUEUED

    def _fail(self, run: ModelRun, code: FailureCode) -> None:
        rule = outcome_rule(code)
        run.error = code.value
        if rule is FailureClass.INFRA:
            run.crashes += 1
            is_over = run.crashes + run.retries >= run.max_attempts
            run.error = FailureCode.POISON.value if is_over else run.error
        else:
            run.retries += 1
            is_over = rule is None or run.crashes + run.retries >= run.max_attempts
        run.status = S.FAILED if is_over else S.QUEUED
        if not is_over and code is not FailureCode.PREEMPTED:  # that one comes back at once
            run.wait = "ahead"

    # ── time and other hands ────────────────────────────────────────────────────────────────────────────

    def expire(self, run_id: str) -> None:
        self.runs[run_id].is_expired = self.runs[run_id].is_held

    def rescue(self) -> set[str]:
        dead = [run for run in self.runs.values() if run.is_held and run.is_expired]
        for run in dead:
            run.crashes += 1
            if run.is_cancel_requested:
                run.status = S.CANCELED
            elif run.crashes + run.retries >= run.max_attempts:
                run.status, run.error = S.FAILED, FailureCode.POISON.value
            else:
                run.status, run.error = S.QUEUED, FailureCode.WORKER_LOST.value
            self._let_go(run)
        return {run.id for run in dead}

    def cancel(self, run_id: str) -> ActionResult:
        run = self.runs.get(run_id)
        if run is None:
            return ActionResult.MISSING
        if run.status in TERMINAL:
            return ActionResult.ALREADY
        if run.is_held:
            run.is_cancel_requested = True
            return ActionResult.REQUESTED
        run.status = S.CANCELED
        return ActionResult.DONE

    def reset(self, run_id: str, force: bool, from_scratch: bool) -> ActionResult:
        run = self.runs.get(run_id)
        if run is None:
            return ActionResult.MISSING
        if run.status is S.QUEUED and not run.wait and not run.held and not from_scratch:
            return ActionResult.ALREADY
        if run.is_held and not run.is_expired and not force:
            return ActionResult.LIVE
        if from_scratch or run.status is S.COMPLETED:
            run.checkpoints = {}
        self._requeue(run)
        return ActionResult.DONE

    def retry_stage(self, run_id: str, stage: str) -> ActionResult:
        run = self.runs.get(run_id)
        if run is None:
            return ActionResult.MISSING
        if run.status in UNATTENDED:
            return ActionResult.LIVE
        run.checkpoints.pop(stage, None)
        self._requeue(run)
        return ActionResult.DONE

    def _requeue(self, run: ModelRun) -> None:
        run.status, run.attempt = S.QUEUED, run.attempt + 1
        run.held = "ahead" if run.is_held and not run.is_expired else run.held
        run.retries = run.crashes = 0
        run.is_cancel_requested = False
        run.wait, run.error, run.settled = "", None, None
        run.place = self._next_place()
        self._let_go(run)

    def _let_go(self, run: ModelRun) -> None:
        run.token = None
        run.is_expired = False

    def _next_place(self) -> int:
        self._places += 1
        return self._places

    # ── what must hold in every state ───────────────────────────────────────────────────────────────────

    def check(self) -> None:
        for run in self.runs.values():
            assert run.is_held == (run.status in ACTIVE)
            assert run.crashes + run.retries <= run.max_attempts


def outcome_rule(code: FailureCode) -> FailureClass | None:
    """Whose budget a failure spends; None: it is final at once. The whole table is in `tests/core`."""
    return {
        FailureCode.USER_ERROR: None,
        FailureCode.CUDA_OOM: None,
        FailureCode.BUDGET_EXCEEDED: None,
        FailureCode.HOST_OOM: FailureClass.USER,
        FailureCode.STAGE_TIMEOUT: FailureClass.USER,
        FailureCode.NETWORK: FailureClass.INFRA,
        FailureCode.CRASHED_SIGNAL: FailureClass.INFRA,
        FailureCode.PREEMPTED: FailureClass.INFRA,
    }[code]
