"""One experiment stage of a run: journal, scheduler, selection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pod_worker.core.execution import CodeRunner
from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.research.completion import CompletionClient
from pod_worker.core.research.idea import Idea
from pod_worker.core.stage import StopSignal
from pod_worker.search.agent.session import AgentOperators
from pod_worker.search.choice.selection import select
from pod_worker.search.choice.stages import StageRules, stage_rules
from pod_worker.search.events import NoSearchEvents, SearchEvents
from pod_worker.search.executor import OneShotExecutor
from pod_worker.search.operators import NodeOperators, Operators
from pod_worker.search.pool import ThreadPool, WorkPool
from pod_worker.search.ports import Evaluator
from pod_worker.search.reports.summary import StageSummary, summarize
from pod_worker.search.scheduler import Scheduler
from pod_worker.search.settings import SearchSettings
from pod_worker.search.slot_permits import SlotPermits
from pod_worker.search.task import SearchTask
from pod_worker.search.tree.journal import Journal
from pod_worker.search.tree.node import NodeOutcome
from pod_worker.search.tree.records import StageFinished
from pod_worker.search.tree.state import SearchState


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """The parts of one run's search; each stage of the run uses the same."""

    folder: Path  # journal, programs and node folders
    task: SearchTask
    idea: Idea
    settings: SearchSettings
    client: CompletionClient
    runner: CodeRunner
    evaluator: Evaluator
    stop: StopSignal
    events: SearchEvents = field(default_factory=NoSearchEvents)
    new_pool: Callable[[], WorkPool] = ThreadPool

    def run_stage(self, stage: str, max_iterations: int | None = None) -> StageSummary:
        """Run a stage or continue it from the journal; its summary if it is finished.

        Raises RunError: ALL_NODES_BUGGY or MAX_ITERATIONS without a scored node in Stage_1, the code of the
        model's or the machine's failure, ENVIRONMENT for a damaged journal. Interruptions pass through.
        """
        rules = stage_rules(stage, max_iterations)
        with Journal.open(self.folder, self.settings.seed) as journal:
            if stage not in journal.state.reasons:
                self._require_start(journal.state, rules)
                reason = self._scheduler(journal, rules).run()
                self._conclude(journal, rules, reason)
            return summarize(journal.state, stage, self.task.metric)

    def _scheduler(self, journal: Journal, rules: StageRules) -> Scheduler:
        permits = SlotPermits(self.settings.slots) if self.settings.agent_turns else None
        return Scheduler(
            journal=journal,
            rules=rules,
            settings=self.settings,
            metric=self.task.metric,
            operators=self._operators(rules, permits),
            executor=OneShotExecutor(
                runner=self.runner,
                evaluator=self.evaluator,
                task=self.task,
                settings=self.settings,
                folder=self.folder,
                permits=permits,
            ),
            pool=self.new_pool(),
            events=self.events,
            stop=self.stop,
        )

    def _operators(self, rules: StageRules, permits: SlotPermits | None) -> NodeOperators:
        one_shot = Operators(
            client=self.client, task=self.task, idea=self.idea, rules=rules, hosts=self.settings.hosts
        )
        if permits is None:
            return one_shot
        return AgentOperators(
            one_shot=one_shot,
            runner=self.runner,
            task=self.task,
            settings=self.settings,
            permits=permits,
            folder=self.folder,
            stop=self.stop,
        )

    def _require_start(self, state: SearchState, rules: StageRules) -> None:
        if not rules.needs_score and state.incumbent(rules.name) is None:
            raise RunError(
                FailureCode.INVALID_INPUT,
                f"{rules.name} starts from the node that an earlier stage selected, and the journal in "
                f"{self.folder} has none; run Stage_1 first",
            )

    def _conclude(self, journal: Journal, rules: StageRules, reason: str) -> None:
        selection = select(journal.state, rules, self.settings, self.task.metric)
        if rules.needs_score and selection.selected is None:
            raise _no_score(journal.state, rules)
        if rules.name not in journal.state.selections:
            journal.append(selection)
        journal.append(StageFinished(stage=rules.name, reason=reason))
        if selection.selected is not None:
            self.events.best_selected(journal.state.nodes[selection.selected])


def _no_score(state: SearchState, rules: StageRules) -> RunError:
    """Why a first stage without a scored node failed."""
    executed = [node for node in state.written(rules.name) if node.outcome is not None]
    kinds = (
        ", ".join(sorted({node.error_kind for node in executed if node.error_kind})) or "no program was executed"
    )
    if executed and all(node.outcome in (NodeOutcome.BUGGY, NodeOutcome.TIMED_OUT) for node in executed):
        return RunError(
            FailureCode.ALL_NODES_BUGGY, f"all {len(executed)} programs of {rules.name} failed: {kinds}"
        )
    return RunError(
        FailureCode.MAX_ITERATIONS, f"{rules.max_iterations} iterations of {rules.name} gave no score: {kinds}"
    )
