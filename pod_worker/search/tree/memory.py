"""What a prompt says about earlier nodes, by importance and under a byte bound.

Tiers of insights: the node's own ancestors, their siblings, the best nodes of the stage, its newest nodes, and the
nodes that earlier stages selected.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from pod_worker.core.failure import truncate
from pod_worker.core.research.measure import Metric
from pod_worker.core.run import Json
from pod_worker.search.tree.node import SearchNode
from pod_worker.search.tree.state import SearchState

INSIGHT_LIMIT = 400
INSIGHTS_BYTES = 4_000
TRIED_BYTES = 6_000
_PLAN_LIMIT = 240
_CHANGE_LIMIT = 80
_BEST_NODES = 5


def insights(state: SearchState, node: SearchNode, metric: Metric, limit: int = INSIGHTS_BYTES) -> list[Json]:
    """Insights of other nodes, the most important first."""
    found: list[Json] = []
    seen: set[str] = set()
    for other in _by_importance(state, node, metric):
        text = truncate(other.insight.strip(), INSIGHT_LIMIT)
        if not text or text in seen:
            continue
        seen.add(text)
        limit -= _bytes(text)
        if limit < 0:
            break
        found.append(text)
    return found


def tried(state: SearchState, node: SearchNode, limit: int = TRIED_BYTES) -> list[Json]:
    """What the stage tried so far, the newest first."""
    found: list[Json] = []
    for other in reversed(state.written(node.stage)):
        if other.id == node.id or other.code is None:
            continue
        entry: dict[str, Json] = {
            "node_id": other.id,
            "operation": other.operation.value,
            "plan": truncate(other.plan, _PLAN_LIMIT),
            "change": truncate(other.change, _CHANGE_LIMIT),
            "outcome": other.outcome.value if other.outcome else "running",
            "score": other.search_score,
        }
        limit -= _bytes(entry)
        if limit < 0:
            break
        found.append(entry)
    return found


def _by_importance(state: SearchState, node: SearchNode, metric: Metric) -> Iterator[SearchNode]:
    ancestors = list(_ancestors(state, node))
    yield from ancestors
    parents = {ancestor.parent for ancestor in ancestors} | {node.parent}
    stage = [other for other in state.written(node.stage) if other.id != node.id]
    yield from _newest_first(other for other in stage if other.parent in parents)
    yield from _best_first(stage, metric)[:_BEST_NODES]
    yield from _newest_first(stage)
    chosen = [selection.selected for selection in state.selections.values() if selection.selected]
    yield from (state.nodes[node_id] for node_id in reversed(chosen))


def _ancestors(state: SearchState, node: SearchNode) -> Iterator[SearchNode]:
    while node.parent is not None:
        node = state.nodes[node.parent]
        yield node


def _newest_first(nodes: Iterable[SearchNode]) -> list[SearchNode]:
    return sorted(nodes, key=lambda node: node.step, reverse=True)


def _best_first(nodes: Iterable[SearchNode], metric: Metric) -> list[SearchNode]:
    sign = -1 if metric.direction == "higher" else 1
    scored = [(sign * node.search_score, node.step, node) for node in nodes if node.search_score is not None]
    return [node for _, _, node in sorted(scored, key=lambda entry: entry[:2])]


def _bytes(value: Json) -> int:
    return len(json.dumps(value, ensure_ascii=False).encode())
