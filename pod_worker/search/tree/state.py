"""The state of a search: a fold of the journal's records, and nothing else.

A state is immutable, so that a thread can build a prompt from the state of the moment of a decision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any

from pod_worker.search.tree.node import SearchNode
from pod_worker.search.tree.records import (
    AnyRecord,
    FailuresVoided,
    NodeAnalysed,
    NodeDeclined,
    NodeFinished,
    NodeInterrupted,
    NodePlanned,
    NodeProposed,
    NodeStarted,
    SearchStarted,
    StageFinished,
    StageSelected,
)


@dataclass(frozen=True, slots=True)
class SearchState:
    nodes: dict[str, SearchNode] = field(
        default_factory=dict
    )  # in the order of the decisions, so by step within a stage; never changed
    selections: dict[str, StageSelected] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)  # finished stage -> why it ended
    position: int = 0  # records so far
    seed: int | None = None
    model_failures: int = 0  # in a row
    last_failure: tuple[str, str] | None = None  # code and message of the last one

    def of_stage(self, stage: str) -> list[SearchNode]:
        """The stage's nodes by step, replicas among them."""
        return [node for node in self.nodes.values() if node.stage == stage]

    def written(self, stage: str) -> list[SearchNode]:
        """The stage's iterations: nodes that a model was asked for, without voided ones."""
        return [node for node in self.of_stage(stage) if node.replica_of is None and not node.is_voided]

    def replicas(self, node_id: str) -> list[SearchNode]:
        return [node for node in self.nodes.values() if node.replica_of == node_id]

    def children(self, node_id: str, stage: str) -> list[SearchNode]:
        return [node for node in self.written(stage) if node.parent == node_id]

    def incumbent(self, stage: str) -> SearchNode | None:
        """The node that the stage starts from: what the stage before it selected."""
        earlier = list(takewhile(lambda selection: selection.stage != stage, self.selections.values()))
        chosen = earlier[-1].selected if earlier else None
        return self.nodes[chosen] if chosen else None


def replay(records: Iterable[AnyRecord], state: SearchState | None = None) -> SearchState:
    state = state or SearchState()
    for record in records:
        state = apply(state, record)
    return state


def apply(state: SearchState, record: AnyRecord) -> SearchState:
    """The state after one more record.

    Raises KeyError for a record of a node that was not planned.
    """
    return replace(_FOLDS[type(record)](state, record), position=state.position + 1)


def _change(state: SearchState, node_id: str, **changes: Any) -> SearchState:
    nodes = dict(state.nodes)
    nodes[node_id] = replace(nodes[node_id], **changes)
    return replace(state, nodes=nodes)


def _search_started(state: SearchState, record: SearchStarted) -> SearchState:
    return replace(state, seed=record.seed)


def _planned(state: SearchState, record: NodePlanned) -> SearchState:
    node = SearchNode(
        id=record.node_id,
        stage=record.stage,
        step=record.step,
        operation=record.operation,
        seed=record.seed,
        position=state.position,
        parent=record.parent,
        replica_of=record.replica_of,
    )
    return replace(state, nodes={**state.nodes, node.id: node})


def _proposed(state: SearchState, record: NodeProposed) -> SearchState:
    changed = _change(
        state,
        record.node_id,
        code=record.code,
        shape=record.shape,
        plan=record.plan,
        change=record.change,
        calls=record.calls,
        is_scripted=record.is_scripted,
    )
    return changed if record.calls == 0 else replace(changed, model_failures=0)


def _declined(state: SearchState, record: NodeDeclined) -> SearchState:
    is_failure = record.failure_code is not None
    changed = _change(
        state, record.node_id, declined=record.reason, calls=record.calls, is_model_failure=is_failure
    )
    return _count_failure(changed, record.failure_code, record.reason)


def _started(state: SearchState, record: NodeStarted) -> SearchState:
    return _change(state, record.node_id, starts=state.nodes[record.node_id].starts + 1)


def _interrupted(state: SearchState, record: NodeInterrupted) -> SearchState:
    return _change(state, record.node_id, starts=state.nodes[record.node_id].starts - 1)


def _finished(state: SearchState, record: NodeFinished) -> SearchState:
    return _change(
        state,
        record.node_id,
        outcome=record.outcome,
        search_score=record.search_score,
        hidden_score=record.hidden_score,
        is_self_reported=record.is_self_reported,
        error_kind=record.error_kind,
        error=record.error,
        exec_seconds=record.exec_seconds,
        output=record.output,
        seed_proof=record.seed_proof,
    )


def _analysed(state: SearchState, record: NodeAnalysed) -> SearchState:
    node = state.nodes[record.node_id]
    changed = _change(
        state,
        record.node_id,
        is_analysed=True,
        analysis=record.analysis,
        insight=record.insight,
        calls=node.calls + record.calls,
    )
    return _count_failure(changed, record.failure_code, record.analysis)


def _count_failure(state: SearchState, code: str | None, message: str) -> SearchState:
    if code is None:
        return replace(state, model_failures=0)
    return replace(state, model_failures=state.model_failures + 1, last_failure=(code, message))


def _failures_voided(state: SearchState, record: FailuresVoided) -> SearchState:
    nodes = dict(state.nodes)
    for node in reversed(state.nodes.values()):
        if node.is_model_failure and not node.is_voided:
            nodes[node.id] = replace(node, is_voided=True)
        elif node.declined or node.outcome is not None:
            break
    return replace(state, nodes=nodes, model_failures=0)


def _stage_selected(state: SearchState, record: StageSelected) -> SearchState:
    return replace(state, selections={**state.selections, record.stage: record})


def _stage_finished(state: SearchState, record: StageFinished) -> SearchState:
    return replace(state, reasons={**state.reasons, record.stage: record.reason})


_FOLDS: dict[type, Callable[[SearchState, Any], SearchState]] = {
    SearchStarted: _search_started,
    NodePlanned: _planned,
    NodeProposed: _proposed,
    NodeDeclined: _declined,
    NodeStarted: _started,
    NodeInterrupted: _interrupted,
    NodeFinished: _finished,
    NodeAnalysed: _analysed,
    FailuresVoided: _failures_voided,
    StageSelected: _stage_selected,
    StageFinished: _stage_finished,
}
