"""What a stage came to: its summary, and the results that a paper is written from."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from pod_worker.core.research.measure import Metric, estimate
from pod_worker.core.run import Json
from pod_worker.search.choice.selection import best_of, replica_scores
from pod_worker.search.tree.node import SearchNode
from pod_worker.search.tree.state import SearchState


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSummary:
    """Counts and search scores of a finished stage.

    No hidden score, so it may be shown at any time.
    """

    stage: str
    reason: str
    iterations: int
    executed: int
    scored: int
    without_score: int
    duplicates: int
    model_calls: int
    calls_per_node: float | None
    exec_seconds: float
    metric: str
    best: str | None
    selected: str | None
    is_better: bool
    best_score: float | None
    replica_mean: float | None
    replica_half_width: float | None
    replica_count: int
    is_self_reported: bool
    is_scripted: bool

    def to_json(self) -> dict[str, Json]:
        return asdict(self)


def summarize(state: SearchState, stage: str, metric: Metric) -> StageSummary:
    """The summary of a stage that has a selection."""
    nodes, written = state.of_stage(stage), state.written(stage)
    executed = [node for node in nodes if node.outcome is not None]
    selection = state.selections[stage]
    best = state.nodes[selection.candidate] if selection.candidate else None
    replicas = estimate(scores) if best and (scores := replica_scores(state, best.id, is_final=False)) else None
    calls = sum(node.calls for node in nodes)
    return StageSummary(
        stage=stage,
        reason=state.reasons.get(stage, ""),
        iterations=len(written),
        executed=len(executed),
        scored=sum(node.is_scored for node in executed),
        without_score=sum(not node.is_scored for node in executed),
        duplicates=sum(bool(node.declined) and not node.is_model_failure for node in written),
        model_calls=calls,
        calls_per_node=round(calls / len(executed), 2) if executed else None,
        exec_seconds=round(sum(node.exec_seconds for node in executed), 3),
        metric=metric.name,
        best=best.id if best else None,
        selected=selection.selected,
        is_better=selection.is_better,
        best_score=best.search_score if best else None,
        replica_mean=replicas.mean if replicas else None,
        replica_half_width=replicas.half_width if replicas and replicas.count > 1 else None,
        replica_count=replicas.count if replicas else 0,
        is_self_reported=any(node.is_self_reported for node in executed),
        is_scripted=any(node.is_scripted for node in nodes),
    )


def results(state: SearchState, metric: Metric) -> list[Json]:
    """Every finished stage with its nodes and hidden scores.

    For the time after the search: plots, tables and paper.
    """
    return [_stage_results(state, stage, metric) for stage in state.reasons]


def _stage_results(state: SearchState, stage: str, metric: Metric) -> dict[str, Json]:
    selection = state.selections.get(stage)
    written = [node for node in state.written(stage) if node.outcome is not None]
    best = best_of(written, metric)
    return {
        "stage": stage,
        "reason": state.reasons[stage],
        "best": best.id if best else None,
        "selected": selection.selected if selection else None,
        "is_better": bool(selection and selection.is_better),
        "reference": selection.reference if selection else None,
        "band": selection.band if selection else None,
        "nodes": [_node_results(state, node) for node in written],
    }


def _node_results(state: SearchState, node: SearchNode) -> dict[str, Json]:
    return {
        "node_id": node.id,
        "operation": node.operation.value,
        "parent": node.parent,
        "plan": node.plan,
        "change": node.change,
        "code": node.code,
        "seed": node.seed,
        "outcome": node.outcome.value if node.outcome else None,
        "error_kind": node.error_kind,
        "search": node.search_score,
        "hidden": node.hidden_score,
        "is_self_reported": node.is_self_reported,
        "is_scripted": node.is_scripted,
        "insight": node.insight,
        "folder": node.folder,
        "replicas": [_replica_results(replica) for replica in state.replicas(node.id)],
    }


def _replica_results(replica: SearchNode) -> dict[str, Json]:
    return {
        "node_id": replica.id,
        "seed": replica.seed,
        "seed_proof": replica.seed_proof,
        "outcome": replica.outcome.value if replica.outcome else None,
        "search": replica.search_score,
        "hidden": replica.hidden_score,
        "folder": replica.folder,
    }
