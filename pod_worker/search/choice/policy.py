"""What a search does next: a pure function of the journal's state and the seed.

Nodes in flight count as attempts without an outcome. The guide within a stage is the search score; the hidden
score only decides at the stage's end (`selection`). With one slot a decision does not see the outcome of the
newest proposal, known or not: the model writes the next program while the slot executes, and the tree depends on
no timing.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, replace

from pod_worker.core.research.measure import Metric
from pod_worker.search.choice.selection import best_of, candidate_of, search_noise
from pod_worker.search.choice.stages import StageRules
from pod_worker.search.settings import SearchSettings
from pod_worker.search.tree.node import NodeOutcome, Operation, SearchNode, debug_depth, derive_seed
from pod_worker.search.tree.state import SearchState


@dataclass(frozen=True, slots=True)
class NodeAction:
    """Make one more node."""

    operation: Operation
    step: int
    parent: str | None = None

    @property
    def replica_of(self) -> str | None:
        return self.parent if self.operation is Operation.REPLICATE else None


@dataclass(frozen=True, slots=True)
class WaitForNodes:
    """Nothing to do before a node in flight is settled."""


@dataclass(frozen=True, slots=True)
class StageEnd:
    """Nothing is left to do in this stage."""

    reason: str


Decision = NodeAction | WaitForNodes | StageEnd
FIRST_SCORE, MAX_ITERATIONS, PLATEAU = "first score", "iteration limit", "plateau"
NOTHING_TO_DO = "no node to start from"


def next_action(state: SearchState, rules: StageRules, settings: SearchSettings, metric: Metric) -> Decision:
    """The next decision; WaitForNodes only while a node of the stage is not settled."""
    nodes = state.of_stage(rules.name)
    step = nodes[-1].step + 1 if nodes else 1
    view = visible_state(state, rules, settings)
    if view is None:
        return WaitForNodes()
    decision = _StageView(view, rules, settings, metric, step).decide(is_alone=False)
    if isinstance(decision, NodeAction):
        return decision
    if any(not node.is_settled for node in nodes if not node.is_replica):
        return WaitForNodes()
    final = _StageView(state, rules, settings, metric, step).decide(is_alone=True)
    if decision is None or isinstance(final, StageEnd):  # nothing is in flight: decide with everything in sight
        decision = final
    if isinstance(decision, NodeAction):
        return decision
    return _replicate(state, rules, settings, metric, step) or decision or StageEnd(NOTHING_TO_DO)


def _replicate(
    state: SearchState, rules: StageRules, settings: SearchSettings, metric: Metric, step: int
) -> NodeAction | WaitForNodes | None:
    """Replicas of the best node; a failed one is not repeated."""
    candidate = candidate_of(state, rules, metric)
    if candidate is None:
        return None
    replicas = state.replicas(candidate.id)
    if len(replicas) < settings.seeds:
        return NodeAction(Operation.REPLICATE, step, candidate.id)
    return WaitForNodes() if any(not node.is_settled for node in replicas) else None


def visible_state(state: SearchState, rules: StageRules, settings: SearchSettings) -> SearchState | None:
    """What the decision may see; None when it has to wait for an older node.

    With several slots: everything. With one: all but the outcome of the newest proposal.
    """
    if settings.slots > 1:
        return state
    nodes = state.written(rules.name)
    if not nodes:
        return state
    *older, newest = nodes
    if newest.is_proposing or any(not node.is_settled for node in older):
        return None
    if newest.declined:
        return state
    blank = replace(
        newest, outcome=None, search_score=None, hidden_score=None, error_kind="", error="", output="",
        analysis="", insight="", is_analysed=False,
    )  # fmt: skip
    return replace(state, nodes={**state.nodes, newest.id: blank})


def proposal_state(
    state: SearchState, node: SearchNode, rules: StageRules, settings: SearchSettings
) -> SearchState:
    """What the prompt of a planned node may say: what its decision saw.

    `state` is the state before the decision. A parent whose outcome is out of sight was chosen with everything in
    sight, because nothing else was left to do.
    """
    view = visible_state(state, rules, settings)
    if view is None or (node.parent and not view.nodes[node.parent].is_finished):
        return state
    return view


class _StageView:
    """One decision about one stage."""

    def __init__(
        self, state: SearchState, rules: StageRules, settings: SearchSettings, metric: Metric, step: int
    ) -> None:
        self._state, self._rules, self._settings, self._metric, self._step = state, rules, settings, metric, step
        self._nodes = state.written(rules.name)
        self._rng = random.Random(derive_seed(settings.seed, "policy", rules.name, step))

    def decide(self, is_alone: bool) -> NodeAction | StageEnd | None:
        """The next program or the end; None where only an outcome in flight can help.

        `is_alone`: nothing is in flight, so there is always something to do.
        """
        if reason := self._end_reason():
            return StageEnd(reason)
        leaves = self._debuggable()
        if self._rules.operation is Operation.DRAFT:
            return self._draft_or_debug(leaves, is_alone)
        if leaves and self._rng.random() < self._settings.debug_probability:
            return self._debug(leaves)
        parent = self._improvable() if self._rules.operation is Operation.IMPROVE else self._incumbent()
        return NodeAction(self._rules.operation, self._step, parent.id) if parent else None

    def _end_reason(self) -> str | None:
        if self._rules.ends_when_scored and any(node.is_scored for node in self._nodes):
            return FIRST_SCORE
        if len(self._nodes) >= self._rules.max_iterations:
            return MAX_ITERATIONS
        return PLATEAU if self._is_plateau() else None

    def _draft_or_debug(self, leaves: list[SearchNode], is_alone: bool) -> NodeAction | None:
        drafts = sum(node.operation is Operation.DRAFT for node in self._nodes)
        if drafts < max(self._settings.num_drafts, self._settings.slots):
            return NodeAction(Operation.DRAFT, self._step)
        if leaves and self._rng.random() < self._settings.debug_probability:
            return self._debug(leaves)
        return NodeAction(Operation.DRAFT, self._step) if leaves or is_alone else None

    def _debug(self, leaves: list[SearchNode]) -> NodeAction:
        return NodeAction(Operation.DEBUG, self._step, self._rng.choice(leaves).id)

    def _debuggable(self) -> list[SearchNode]:
        """Nodes without a score that no debug step was tried on, up to the depth limit."""
        return [
            node
            for node in self._nodes
            if node.outcome not in (None, NodeOutcome.SCORED)
            and debug_depth(self._state.nodes, node) < self._settings.max_debug_depth
            and not any(not child.is_model_failure for child in self._state.children(node.id, self._rules.name))
        ]

    def _incumbent(self) -> SearchNode | None:
        return self._state.incumbent(self._rules.name)

    def _improvable(self) -> SearchNode | None:
        """The node with the fewest children, of those that equal the best within noise."""
        incumbent = self._incumbent()
        nodes = [node for node in ([incumbent] if incumbent else []) + self._nodes if node.is_scored]
        best = best_of(nodes, self._metric, is_final=False)
        if best is None or best.search_score is None:
            return None
        band = search_noise(self._state, self._settings).band()
        tied = [node for node in nodes if not self._is_better(best.search_score, node.search_score, band)]
        children = {node.id: len(self._state.children(node.id, self._rules.name)) for node in tied}
        fewest = min(children.values())
        return best_of((node for node in tied if children[node.id] == fewest), self._metric, is_final=False)

    def _is_plateau(self) -> bool:
        """Whether the last iterations brought no score beyond the noise band."""
        if self._rules.plateau is None:
            return False
        incumbent = self._incumbent()
        best = incumbent.search_score if incumbent else None
        band = search_noise(self._state, self._settings).band()
        without = 0
        for node in self._finished():
            if node.is_scored and (best is None or self._is_better(node.search_score, best, band)):
                best, without = node.search_score, 0
            else:
                without += 1
        return without >= self._rules.plateau

    def _finished(self) -> Iterable[SearchNode]:
        return (node for node in self._nodes if node.is_finished)

    def _is_better(self, score: float | None, reference: float | None, band: float) -> bool:
        return score is not None and reference is not None and self._metric.is_better(score, reference, band)
