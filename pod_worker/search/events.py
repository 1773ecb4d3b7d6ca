"""What a search reports while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pod_worker.core.research.measure import Metric
from pod_worker.search.choice.selection import best_of
from pod_worker.search.choice.stages import StageRules
from pod_worker.search.tree.node import SearchNode
from pod_worker.search.tree.state import SearchState


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchProgress:
    """Counts of one stage; no hidden score."""

    stage: str
    iteration: int
    max_iterations: int
    good_nodes: int
    buggy_nodes: int  # without a score: buggy, timed out, refused
    total_nodes: int  # with an outcome, replicas among them
    best_metric: float | None  # search score
    model_calls: int
    slots: int
    slots_busy: int


class SearchEvents(Protocol):
    """Receives facts after they are in the journal.

    Only the scheduler's thread calls it.
    """

    def node_created(self, node: SearchNode) -> None: ...
    def node_executing(self, node: SearchNode) -> None: ...
    def node_completed(self, node: SearchNode) -> None: ...
    def best_selected(self, node: SearchNode) -> None: ...
    def progress(self, progress: SearchProgress) -> None: ...


class NoSearchEvents:
    def node_created(self, node: SearchNode) -> None:
        pass

    def node_executing(self, node: SearchNode) -> None:
        pass

    def node_completed(self, node: SearchNode) -> None:
        pass

    def best_selected(self, node: SearchNode) -> None:
        pass

    def progress(self, progress: SearchProgress) -> None:
        pass


def progress_of(
    state: SearchState, rules: StageRules, metric: Metric, slots: int, slots_busy: int
) -> SearchProgress:
    nodes = state.of_stage(rules.name)
    executed = [node for node in nodes if node.outcome is not None]
    best = best_of((node for node in executed if not node.is_replica), metric, is_final=False)
    return SearchProgress(
        stage=rules.name,
        iteration=sum(node.is_finished for node in state.written(rules.name)),
        max_iterations=rules.max_iterations,
        good_nodes=sum(node.is_scored for node in executed),
        buggy_nodes=sum(not node.is_scored for node in executed),
        total_nodes=len(executed),
        best_metric=best.search_score if best else None,
        model_calls=sum(node.calls for node in nodes),
        slots=slots,
        slots_busy=slots_busy,
    )
