"""The scheduler of one stage: keeps slots busy and writes the journal.

One thread owns the journal. It asks the policy, starts jobs and records their results; nothing else decides.
Model calls are jobs outside the slots, and up to `slots + 1` proposals are in preparation or ready, so a slot that
becomes free finds a program. There is no batch: each result is followed by new work at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import cast

from pod_worker.core.failure import (
    FailureClass,
    FailureCode,
    Interruption,
    RunError,
    classify,
    truncate,
)
from pod_worker.core.research.measure import Metric
from pod_worker.core.stage import StopSignal
from pod_worker.search.choice.policy import NodeAction, StageEnd, next_action, proposal_state
from pod_worker.search.choice.stages import StageRules
from pod_worker.search.events import SearchEvents, progress_of
from pod_worker.search.executor import NodeExecutor
from pod_worker.search.operators import Analysis, NodeOperators, Proposal
from pod_worker.search.outcomes import equal_proof, given_up, is_killed, proposed, rejection, repeated, unscored
from pod_worker.search.pool import JobKind, JobResult, SearchJob, WorkPool, drain
from pod_worker.search.settings import SearchSettings
from pod_worker.search.tree.journal import Journal
from pod_worker.search.tree.node import SearchNode, derive_seed, node_id
from pod_worker.search.tree.records import (
    AnyRecord,
    FailuresVoided,
    NodeAnalysed,
    NodeDeclined,
    NodeFinished,
    NodeInterrupted,
    NodePlanned,
    NodeStarted,
)
from pod_worker.search.tree.state import SearchState

POLL_SECONDS = 0.1  # between two looks at the stop signal
STOP_SECONDS = 0.8  # for executions to end after a stop request
_REASON_LIMIT = 500
_NO_SANDBOX = FailureCode.ENVIRONMENT  # an agent executes programs while it writes one


class Scheduler:
    """Runs one stage to its end; use once."""

    def __init__(
        self,
        *,
        journal: Journal,
        rules: StageRules,
        settings: SearchSettings,
        metric: Metric,
        operators: NodeOperators,
        executor: NodeExecutor,
        pool: WorkPool,
        events: SearchEvents,
        stop: StopSignal,
    ) -> None:
        self._journal, self._rules, self._settings, self._metric = journal, rules, settings, metric
        self._operators, self._executor, self._pool = operators, executor, pool
        self._events, self._stop = events, stop
        self._free_slots = list(range(settings.slots))
        self._jobs: dict[tuple[JobKind, str], SearchJob] = {}
        self._asked: dict[str, int] = {}  # proposals asked for by this process, for each node
        self._calls: Counter[str] = Counter()  # of a model, for those proposals
        self._decided_from: dict[str, SearchState] = {}  # the state before the decision for an open proposal
        self._error: BaseException | None = None  # ends the search once the executions have ended

    def run(self) -> str:
        """Why the stage ended.

        Raises RunError (model, budget, sandbox or machine), and the interruptions of the stop signal.
        """
        self._recover()
        self._report()
        try:
            while True:
                self._stop.check()
                reason = self._start_work()
                if reason is not None:
                    return reason
                if result := self._pool.wait(POLL_SECONDS):
                    self._take(result)
        except Interruption:
            self._end_executions()
            raise

    # What to start

    def _start_work(self) -> str | None:
        """Fill the slots and the queue of proposals; the reason once the stage has ended."""
        if self._error is not None:
            if not self._count(JobKind.EXECUTE):
                raise self._error
            return None
        reason = self._plan()
        self._start_executions()
        self._start_analyses()
        return reason

    def _plan(self) -> str | None:
        while self._pending() <= self._settings.slots:
            decision = next_action(self._state, self._rules, self._settings, self._metric)
            if isinstance(decision, StageEnd):
                return decision.reason
            if not isinstance(decision, NodeAction):
                return None
            self._plan_node(decision)
        return None

    def _pending(self) -> int:
        """Proposals in preparation, and programs that wait for a slot."""
        nodes = self._state.of_stage(self._rules.name)
        return sum(node.is_proposing or (node.is_ready and not self._is_running(node)) for node in nodes)

    def _plan_node(self, action: NodeAction) -> None:
        planned = NodePlanned(
            node_id=node_id(self._rules.name, action.step),
            stage=self._rules.name,
            step=action.step,
            operation=action.operation,
            seed=self._seed_of(action),
            parent=action.parent,
            replica_of=action.replica_of,
        )
        self._decided_from[planned.node_id] = self._state
        self._append(planned)
        node = self._state.nodes[planned.node_id]
        if node.is_replica:
            self._propose_replica(node)
        else:
            self._submit_proposal(node)

    def _seed_of(self, action: NodeAction) -> int:
        """Replicas of all nodes share their seeds, so that comparisons see the same draws."""
        if action.replica_of is None:
            return derive_seed(self._settings.seed, "node", self._rules.name, action.step)
        return derive_seed(self._settings.seed, "replica", len(self._state.replicas(action.replica_of)))

    def _propose_replica(self, node: SearchNode) -> None:
        original = self._state.nodes[node.replica_of or ""]
        self._append(repeated(node, original))
        self._events.node_created(self._state.nodes[node.id])

    def _submit_proposal(self, node: SearchNode, rejected: str = "") -> None:
        state = self._decided_from.get(node.id) or self._journal.state_at(node.position)
        self._decided_from[node.id] = state
        self._asked[node.id] = self._asked.get(node.id, 0) + 1
        state = proposal_state(state, node, self._rules, self._settings)
        code = self._code(state.nodes[node.parent] if node.parent else None)
        self._submit(JobKind.PROPOSE, node, lambda: self._operators.propose(state, node, code, rejected))

    def _start_executions(self) -> None:
        for node in self._state.of_stage(self._rules.name):
            if not self._free_slots:
                return
            if not node.is_ready or self._is_running(node):
                continue
            if node.starts >= self._settings.max_starts:
                self._finish(given_up(node))
                continue
            self._append(NodeStarted(node_id=node.id))
            slot, code = self._free_slots.pop(0), self._code(node)
            work = self._execution(self._state.nodes[node.id], code, slot)
            self._submit(JobKind.EXECUTE, node, work, slot)
            self._events.node_executing(node)

    def _execution(self, node: SearchNode, code: str, slot: int) -> Callable[[], object]:
        return lambda: self._executor.execute(node, code, slot, self._stop)

    def _start_analyses(self) -> None:
        room = self._settings.slots + 1 - self._count(JobKind.ANALYSE)
        for node in self._state.of_stage(self._rules.name):
            if room > 0 and node.needs_analysis and (JobKind.ANALYSE, node.id) not in self._jobs:
                room -= 1
                self._submit(JobKind.ANALYSE, node, self._analysis(node, self._code(node)))

    def _analysis(self, node: SearchNode, code: str) -> Callable[[], object]:
        state = self._state
        return lambda: self._operators.analyse(state, node, code)

    # What came back

    def _take(self, result: JobResult) -> None:
        job = self._jobs.pop((result.job.kind, result.job.node_id))
        if job.slot is not None:
            self._free_slots.append(job.slot)
            self._free_slots.sort()
        node = self._state.nodes[job.node_id]
        if isinstance(result.error, Interruption):
            if job.kind is JobKind.EXECUTE:
                self._append(NodeInterrupted(node_id=node.id))
            raise result.error
        if job.kind is JobKind.PROPOSE:
            self._take_proposal(node, result)
        elif job.kind is JobKind.EXECUTE:
            self._take_execution(node, result)
        else:
            self._take_analysis(node, result)
        self._report()

    def _take_proposal(self, node: SearchNode, result: JobResult) -> None:
        decided_from = self._decided_from.pop(node.id)
        if result.error is not None:
            if failure := self._model_failure(result.error):
                code, message = failure
                calls = self._calls[node.id] + 1
                self._append(NodeDeclined(node_id=node.id, reason=message, calls=calls, failure_code=code))
                self._limit_failures()
            return
        proposal = cast(Proposal, result.value)
        self._calls[node.id] += proposal.calls
        calls = self._calls[node.id]
        reason = rejection(self._state, proposal)
        if reason is None:
            self._accept(node, proposal, calls)
        elif self._stop.is_set():
            return  # a resume asks again: the client's cache has the answer
        elif self._asked[node.id] == 1:
            self._decided_from[node.id] = decided_from
            self._submit_proposal(node, rejected=reason)
        else:
            self._append(NodeDeclined(node_id=node.id, reason=reason, calls=calls))

    def _accept(self, node: SearchNode, proposal: Proposal, calls: int) -> None:
        self._append(proposed(node, proposal, self._journal.store_code(proposal.code), calls))
        self._events.node_created(self._state.nodes[node.id])

    def _take_execution(self, node: SearchNode, result: JobResult) -> None:
        if result.error is not None:
            self._take_execution_error(node, result.error)
        elif result.value is not None:
            record = cast(NodeFinished, result.value)
            if not is_killed(record) or node.starts >= self._settings.max_starts:
                self._finish(record)
        elif self._stop.is_set():
            self._append(NodeInterrupted(node_id=node.id))
        # Otherwise the program was stopped without a request or killed: it starts again, up to `max_starts` times.

    def _take_execution_error(self, node: SearchNode, error: BaseException) -> None:
        failure = classify(error)
        if isinstance(error, RunError) or failure.policy.failure_class is FailureClass.INFRA:
            self._append(NodeInterrupted(node_id=node.id))
            self._end_with(error if isinstance(error, RunError) else RunError(failure.code, failure.message))
            return
        self._finish(unscored(node, error))  # a defect of the evaluator costs this node, not the search

    def _finish(self, record: NodeFinished) -> None:
        node = self._state.nodes[record.node_id]
        if twin := equal_proof(self._state, node, record):
            self._end_with(
                RunError(
                    FailureCode.ENVIRONMENT,
                    f"{node.id} and {twin.id} ran with different seeds and drew the same random numbers: "
                    "the sandbox does not seed its programs on this machine",
                )
            )
            return
        self._append(record)
        self._events.node_completed(self._state.nodes[node.id])

    def _take_analysis(self, node: SearchNode, result: JobResult) -> None:
        if result.error is None:
            found = cast(Analysis, result.value)
            self._append(NodeAnalysed(node_id=node.id, analysis=found.analysis, insight=found.insight))
        elif failure := self._model_failure(result.error):
            code, message = failure
            self._append(NodeAnalysed(node_id=node.id, analysis=message, failure_code=code))
            self._limit_failures()

    # Failures and the end

    def _model_failure(self, error: BaseException) -> tuple[str, str] | None:
        """Code and message to record; None for a failure that ends the search at once."""
        failure = classify(error)
        if isinstance(error, RunError) and (not failure.policy.is_retryable or failure.code is _NO_SANDBOX):
            self._end_with(error)
            return None
        code = failure.code if failure.policy.is_retryable else FailureCode.INTERNAL
        return code.value, truncate(f"the model did not answer: {failure.message}", _REASON_LIMIT)

    def _limit_failures(self) -> None:
        if self._state.model_failures >= self._settings.max_model_failures and self._state.last_failure:
            code, message = self._state.last_failure
            count = self._state.model_failures
            self._end_with(
                RunError(FailureCode(code), f"{count} model calls in a row failed; the last one: {message}")
            )

    def _end_with(self, error: BaseException) -> None:
        self._error = self._error or error

    def _end_executions(self) -> None:
        """Keep what still ends in time; a resume executes the rest again."""
        for result in drain(self._pool, lambda: self._count(JobKind.EXECUTE), STOP_SECONDS):
            with suppress(Interruption):
                self._take(result)
        for kind, name in self._jobs:
            if kind is JobKind.EXECUTE:
                self._append(NodeInterrupted(node_id=name))

    def _recover(self) -> None:
        """Continue what an earlier process left.

        Open proposals are asked for again; the client's cache answers what was paid.
        """
        if self._state.model_failures >= self._settings.max_model_failures:
            self._append(FailuresVoided())
        for node in self._state.of_stage(self._rules.name):
            if not node.is_proposing:
                continue
            if node.is_replica:
                self._propose_replica(node)
            else:
                self._submit_proposal(node)

    # Shared

    @property
    def _state(self) -> SearchState:
        return self._journal.state

    def _append(self, record: AnyRecord) -> None:
        self._journal.append(record)

    def _submit(
        self, kind: JobKind, node: SearchNode, work: Callable[[], object], slot: int | None = None
    ) -> None:
        job = SearchJob(kind=kind, node_id=node.id, work=work, slot=slot)
        self._jobs[kind, node.id] = job
        self._pool.submit(job)

    def _count(self, kind: JobKind) -> int:
        return sum(found is kind for found, _ in self._jobs)

    def _is_running(self, node: SearchNode) -> bool:
        return (JobKind.EXECUTE, node.id) in self._jobs

    def _code(self, node: SearchNode | None) -> str:
        return self._journal.read_code(node.code) if node and node.code else ""

    def _report(self) -> None:
        busy = self._count(JobKind.EXECUTE)
        self._events.progress(progress_of(self._state, self._rules, self._metric, self._settings.slots, busy))
