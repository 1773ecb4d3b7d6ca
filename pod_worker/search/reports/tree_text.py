"""The search tree as plain text, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from pod_worker.core.failure import truncate
from pod_worker.core.stage import stage_title
from pod_worker.core.terminal_text import one_line
from pod_worker.search.tree.node import NodeOutcome, SearchNode
from pod_worker.search.tree.records import StageSelected
from pod_worker.search.tree.state import SearchState

_SIGNS = {NodeOutcome.SCORED: "●", NodeOutcome.BUGGY: "✗", NodeOutcome.TIMED_OUT: "◷", NodeOutcome.NO_SCORE: "○"}
_LABEL_LIMIT = 48


def tree_text(state: SearchState) -> str:
    """One line a node, below its parent; replicas are counted at their node."""
    stages = dict.fromkeys(node.stage for node in state.nodes.values())
    return "\n\n".join("\n".join(_stage_lines(state, stage)) for stage in stages)


def _stage_lines(state: SearchState, stage: str) -> Iterator[str]:
    nodes = state.written(stage)
    scored = sum(node.is_scored for node in nodes)
    reason = state.reasons.get(stage, "running")
    yield f"{stage} {stage_title(stage)}: {len(nodes)} nodes, {scored} scored, {reason}"
    known = {node.id for node in nodes}
    roots = [node for node in nodes if node.parent not in known]
    yield from _branches(state, roots, nodes, "")


def _branches(state: SearchState, level: list[SearchNode], nodes: list[SearchNode], indent: str) -> Iterator[str]:
    for index, node in enumerate(level):
        is_last = index == len(level) - 1
        yield f"{indent}{'└─' if is_last else '├─'} {_line(state, node)}"
        children = [child for child in nodes if child.parent == node.id]
        yield from _branches(state, children, nodes, indent + ("   " if is_last else "│  "))


def _line(state: SearchState, node: SearchNode) -> str:
    selection = state.selections.get(node.stage)
    parts = [_sign(node), f"{node.step:03d}", node.operation.value, _result(node)]
    if replicas := [replica for replica in state.replicas(node.id) if replica.stage == node.stage]:
        parts.append(f"×{len(replicas)} seeds")
    if selection and selection.candidate == node.id:
        parts.append(_verdict(selection))
    if label := one_line(node.change or node.plan):
        parts.append(f"· {truncate(label, _LABEL_LIMIT)}")
    return " ".join(parts)


def _verdict(selection: StageSelected) -> str:
    if selection.selected == selection.candidate:
        return "★ selected"
    return "☆ better than its start" if selection.is_better else "☆ best, not better than its start"


def _sign(node: SearchNode) -> str:
    if node.declined:
        return "–"
    return _SIGNS[node.outcome] if node.outcome else "…"


def _result(node: SearchNode) -> str:
    if node.search_score is not None:
        return f"{node.search_score:.4g}"
    if node.declined:
        return "failed call" if node.is_model_failure else "declined"
    if node.outcome is None:
        return "running" if node.starts else "waiting"
    return node.error_kind or node.outcome.value
