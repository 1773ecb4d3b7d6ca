"""Which node a stage ends with.

The best node is picked by the score that selects: the hidden one where the task has an evaluator. Picking the best
of many is itself lucky, so the picked execution proves nothing: the node is replicated with fresh seeds, and only
those replicas are compared with the replicas of the node that the stage started from.
"""

from __future__ import annotations

from collections.abc import Iterable

from pod_worker.core.research.measure import Metric
from pod_worker.search.choice.stages import StageRules
from pod_worker.search.choice.statistics import Noise, compare, pooled_noise
from pod_worker.search.settings import SearchSettings
from pod_worker.search.tree.node import SearchNode
from pod_worker.search.tree.records import StageSelected
from pod_worker.search.tree.state import SearchState


def best_of(nodes: Iterable[SearchNode], metric: Metric, is_final: bool = True) -> SearchNode | None:
    """The best scored node, the earliest of equal ones.

    By the score that selects, or by the search score while the search goes on (`is_final` false).
    """
    best: SearchNode | None = None
    for node in sorted(nodes, key=lambda node: (node.stage, node.step)):
        score = score_of(node, is_final)
        if score is None:
            continue
        held = score_of(best, is_final) if best else None
        if held is None or metric.is_better(score, held):
            best = node
    return best


def score_of(node: SearchNode, is_final: bool) -> float | None:
    if not node.is_scored:
        return None
    return node.selection_score if is_final else node.search_score


def candidate_of(state: SearchState, rules: StageRules, metric: Metric) -> SearchNode | None:
    """The stage's best node, which its end replicates."""
    return best_of(state.written(rules.name), metric)


def replica_scores(state: SearchState, node_id: str, is_final: bool = True) -> list[float]:
    scores = (score_of(node, is_final) for node in state.replicas(node_id))
    return [score for score in scores if score is not None]


def search_noise(state: SearchState, settings: SearchSettings) -> Noise:
    """The noise of search scores, from every group of replicas so far."""
    replicated = {node.replica_of for node in state.nodes.values() if node.replica_of}
    groups = [replica_scores(state, node_id, is_final=False) for node_id in sorted(replicated)]
    return pooled_noise(groups, settings.band_floor)


def select(state: SearchState, rules: StageRules, settings: SearchSettings, metric: Metric) -> StageSelected:
    """The decision at a stage's end, after the replicas of its best node."""
    candidate, incumbent = candidate_of(state, rules, metric), state.incumbent(rules.name)
    if candidate is None or incumbent is None:
        return _unopposed(state, rules, candidate or incumbent, candidate)
    scores, reference = replica_scores(state, candidate.id), replica_scores(state, incumbent.id)
    result = compare(metric, scores, reference, settings.band_floor)
    is_better = result is not None and result.is_better
    return StageSelected(
        stage=rules.name,
        candidate=candidate.id,
        selected=candidate.id if is_better and rules.may_replace else incumbent.id,
        is_better=is_better,
        reference=incumbent.id,
        band=result.band if result else None,
        candidate_mean=result.candidate.mean if result else None,
        reference_mean=result.reference.mean if result else None,
        candidate_scores=tuple(scores),
        reference_scores=tuple(reference),
    )


def _unopposed(
    state: SearchState, rules: StageRules, selected: SearchNode | None, candidate: SearchNode | None
) -> StageSelected:
    """The decision without a reference (first stage) or without a candidate."""
    return StageSelected(
        stage=rules.name,
        candidate=candidate.id if candidate else None,
        selected=selected.id if selected else None,
        is_better=False,
        candidate_scores=tuple(replica_scores(state, candidate.id)) if candidate else (),
    )
