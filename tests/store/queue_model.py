"""The run queue as one small state machine in memory: what each call must answer and what it must leave behind.

Written from the promises, not from the queries: it knows no time (a lease is live or over, a wait is ahead or
past) and no MongoDB. `test_queue_model` holds the real queue to it, call by call.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pod_worker.core.failure import Failure, FailureClass, FailureCode
from pod_worker.core.lease import RenewalResult
from pod_worker.core.outcome import Canceled, Failed, Lost, Outcome, Succeeded
from pod_worker.core.run import ACTIVE, ENDED_WELL, TERMINAL, UNATTENDED, AfterFailure, RunStatus
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
    after: tuple[str, ...] = ()
    after_failure: AfterFailure = AfterFailure.FAIL
    blocked_by: tuple[str, ...] = ()
    has_max_queue_time: bool = False
    start_by: str = ""  # "" | "ahead" | "past"
    retry_on: tuple[str, ...] | None = None

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

    def enqueue(self, run_id: str, queue: str, priority: int, max_attempts: int, **fields: Any) -> None:
        run = self.runs[run_id] = ModelRun(run_id, queue, self._next_place(), priority, max_attempts, **fields)
        run.blocked_by = run.after
        self._begin_waiting(run)

    def _begin_waiting(self, run: ModelRun) -> None:
        """The time to start counts while a worker may claim the run."""
        run.start_by = "ahead" if run.has_max_queue_time and not run.blocked_by else ""

    def set_priority(self, run_id: str, priority: int) -> ActionResult:
        run = self.runs.get(run_id)
        if run is None:
            return ActionResult.MISSING
        if run.status is not S.QUEUED:
            return ActionResult.LIVE
        run.priority = priority
        return ActionResult.DONE

    def claimable(self, paused: frozenset[str] | set[str] | None = None) -> list[ModelRun]:
        """Everything that a worker of all queues may take, the first in line first."""
        paused = self.paused if paused is None else paused
        free = [
            run
            for run in self.runs.values()
            if run.status is S.QUEUED and not run.is_hidden and run.queue not in paused
            if "ahead" not in (run.wait, run.held) and not run.blocked_by
        ]
        return sorted(free, key=lambda run: (-run.priority, run.place, run.id))

    def claim(self, run_id: str, token: str) -> ModelRun:
        run = self.runs[run_id]
        assert run in self.claimable(paused=frozenset())
        run.status, run.attempt, run.token = S.SCHEDULED, run.attempt + 1, token
        run.is_expired = run.is_cancel_requested = False
        run.wait = run.held = run.start_by = ""
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
            self._fail(run, outcome.failure)
        else:
            run.status = S.QUEUED

    def _fail(self, run: ModelRun, failure: Failure) -> None:
        code = failure.code
        rule = FailureClass.INFRA if outcome_rule(code) is FailureClass.INFRA else FailureClass.USER
        run.error = code.value
        is_final = not retried(failure, run.retry_on)
        if rule is FailureClass.INFRA:
            run.crashes += 1
        else:
            run.retries += 1
        is_over = is_final or run.crashes + run.retries >= run.max_attempts
        if is_over and not is_final and rule is FailureClass.INFRA:
            run.error = FailureCode.POISON.value
        run.status = S.FAILED if is_over else S.QUEUED
        if not is_over and code not in AT_ONCE:
            run.wait = "ahead"

    # ── time and other hands ────────────────────────────────────────────────────────────────────────────

    def expire(self, run_id: str) -> None:
        self.runs[run_id].is_expired = self.runs[run_id].is_held

    def sweep(self) -> set[str]:
        """Everything that comes due without a person; the ids of the rescued runs."""
        self.end_overdue(list(self.runs))
        self.advance(set(self.runs))
        return self.rescue()

    def end_overdue(self, run_ids: list[str]) -> None:
        for run in (self.runs[run_id] for run_id in run_ids):
            if run.status is S.QUEUED and run.start_by == "past":
                run.status, run.error, run.start_by = S.FAILED, FailureCode.STAGE_TIMEOUT.value, ""

    def advance(self, changed: set[str]) -> None:
        """Look at the runs that wait for these, then at those that wait for them."""
        while changed:
            waiting = [run for run in self.runs.values() if run.status is S.QUEUED]
            reached = [run for run in waiting if not changed.isdisjoint(run.blocked_by)]
            verdicts = {run.id: self.verdict(run) for run in reached}
            changed = {run.id for run in reached if self.follow(run, verdicts[run.id])}

    def verdict(self, run: ModelRun) -> str:
        """What the runs that it waits for mean for it: "" | "start" | "end"."""
        states = {self.runs[name].status for name in run.blocked_by}
        if states & (TERMINAL - ENDED_WELL):
            return "end"
        return "start" if states and states <= ENDED_WELL else ""

    def follow(self, run: ModelRun, verdict: str) -> bool:
        if verdict == "end":
            run.status = S.CANCELED if run.after_failure is AfterFailure.SKIP else S.FAILED
            if run.status is S.FAILED:
                run.error = FailureCode.USER_ERROR.value
        if verdict:
            run.blocked_by = ()
            run.start_by = ""
        if verdict == "start":
            self._begin_waiting(run)
        return bool(verdict)

    def rescue(self, run_ids: list[str] | None = None) -> set[str]:
        chosen = self.runs.values() if run_ids is None else [self.runs[run_id] for run_id in run_ids]
        dead = [run for run in chosen if run.is_held and run.is_expired]
        for run in dead:
            run.crashes += 1
            if run.is_cancel_requested:
                run.status = S.CANCELED
            elif run.retry_on is not None and "interruption" not in run.retry_on:
                run.status, run.error = S.FAILED, FailureCode.WORKER_LOST.value
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
        run.status, run.blocked_by, run.start_by = S.CANCELED, (), ""
        return ActionResult.DONE

    def reset(self, run_id: str, force: bool, from_scratch: bool, going: set[str] | None = None) -> ActionResult:
        """`going`: the runs that were seen to go on, if that was before this call."""
        run = self.runs.get(run_id)
        if run is None:
            return ActionResult.MISSING
        if run.status is S.QUEUED and not run.wait and not run.held and not from_scratch:
            return ActionResult.ALREADY
        if run.is_held and not run.is_expired and not force:
            return ActionResult.LIVE
        if from_scratch or run.status is S.COMPLETED:
            run.checkpoints = {}
        self._requeue(run, going)
        return ActionResult.DONE

    def retry_stage(self, run_id: str, stage: str, going: set[str] | None = None) -> ActionResult:
        run = self.runs.get(run_id)
        if run is None:
            return ActionResult.MISSING
        if run.status in UNATTENDED:
            return ActionResult.LIVE
        run.checkpoints.pop(stage, None)
        self._requeue(run, going)
        return ActionResult.DONE

    def going(self) -> set[str]:
        return {run.id for run in self.runs.values() if run.status not in TERMINAL | ENDED_WELL}

    def _requeue(self, run: ModelRun, going: set[str] | None) -> None:
        run.status, run.attempt = S.QUEUED, run.attempt + 1
        run.held = "ahead" if run.is_held and not run.is_expired else run.held
        run.retries = run.crashes = 0
        run.is_cancel_requested = False
        run.wait, run.error, run.settled = "", None, None
        run.place = self._next_place()
        open_runs = self.going() if going is None else going
        run.blocked_by = tuple(name for name in run.after if name in open_runs)
        self._begin_waiting(run)
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
            assert run.status is S.QUEUED or not (run.blocked_by or run.start_by)
            assert not (run.blocked_by and run.start_by)


AT_ONCE = {FailureCode.PREEMPTED, FailureCode.USER_ERROR, FailureCode.CUDA_OOM}  # repeated without a wait


def retried(failure: Failure, words: tuple[str, ...] | None) -> bool:
    """Whether the failure is retried while attempts are left. The words' whole meaning is in `tests/core`."""
    if words is None:
        return outcome_rule(failure.code) is not None
    if failure.exit_code is not None:
        return "error" in words or f"exit:{failure.exit_code}" in words
    if outcome_rule(failure.code) is FailureClass.INFRA:
        return "interruption" in words
    match failure.code:
        case FailureCode.HOST_OOM | FailureCode.CUDA_OOM:
            return "oom" in words or "error" in words
        case FailureCode.STAGE_TIMEOUT:
            return "interruption" in words or "error" in words
        case FailureCode.USER_ERROR:
            return "error" in words
    return False


def outcome_rule(code: FailureCode) -> FailureClass | None:
    """Whose budget a failure spends; None: it is final at once. The whole table is in `tests/core`."""
    return {
        FailureCode.USER_ERROR: None,
        FailureCode.CUDA_OOM: None,
        FailureCode.MAX_DURATION: None,
        FailureCode.BUDGET_EXCEEDED: None,
        FailureCode.HOST_OOM: FailureClass.USER,
        FailureCode.STAGE_TIMEOUT: FailureClass.USER,
        FailureCode.NETWORK: FailureClass.INFRA,
        FailureCode.CRASHED_SIGNAL: FailureClass.INFRA,
        FailureCode.PREEMPTED: FailureClass.INFRA,
    }[code]
