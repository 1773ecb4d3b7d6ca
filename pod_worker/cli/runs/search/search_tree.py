"""The search tree of a run, built from its events, and as lines of text.

Events may come from anyone with a key: a field of another type is left out, and a cycle of parents ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pod_worker.cli.document_values import as_mapping, as_number, as_text
from pod_worker.cli.output import number
from pod_worker.core.run import Json
from pod_worker.core.stage import stage_title
from pod_worker.core.terminal_text import one_line

CREATED, EXECUTING, COMPLETED, SELECTED = (
    f"ai.node.{name}" for name in ("created", "executing", "completed", "selected_best")
)
NODE_TYPES = (CREATED, EXECUTING, COMPLETED, SELECTED)
REPLICA_PLAN = "replicate"  # what a search reports as the plan of a replica
WIDTH = 100
INDENT_LIMIT = 36  # columns; deeper nodes keep this indent
_SIGNS = {"created": "…", "executing": "▸", "scored": "●", "failed": "✗"}


@dataclass(frozen=True, slots=True)
class TreeNode:
    """A node as its events tell it."""

    node_id: str
    stage: str
    parent_id: str | None = None
    state: str = "created"  # executing, scored, failed
    plan: str = ""
    metric: float | str | None = None  # of the search split
    seconds: float | None = None
    is_replica: bool = False
    is_best: bool = False  # the search selected it


def tree_of(events: Iterable[Mapping[str, Json]]) -> list[TreeNode]:
    """The nodes in the order of their creation.

    A node that is created again replaces the old one and all that came after it: the search was reset, or it
    continued from an older copy of its record. Events of a lost lease do not count.
    """
    nodes: dict[str, TreeNode] = {}
    for event in sorted(events, key=_order):
        data, kind = as_mapping(event.get("data")), event.get("type")
        node_id, stage = as_text(data.get("node_id")), as_text(data.get("stage"))
        if not node_id or not stage or kind not in NODE_TYPES or event.get("isFenced") is True:
            continue
        if kind == CREATED and node_id in nodes:
            _forget_from(nodes, node_id)
        known = nodes.get(node_id) or TreeNode(node_id, stage)
        nodes[node_id] = _updated(known, str(kind), data)
        if kind == SELECTED:
            _unmark_others(nodes, nodes[node_id])
    return list(nodes.values())


def _order(event: Mapping[str, Json]) -> tuple[float, ...]:
    """As the worker emitted them, which the order of arrival may differ from."""
    return tuple(as_number(event.get(name)) or 0 for name in ("attempt", "seq", "position"))


def _forget_from(nodes: dict[str, TreeNode], node_id: str) -> None:
    names = list(nodes)
    for name in names[names.index(node_id) :]:
        del nodes[name]


def _updated(node: TreeNode, kind: str, data: Mapping[str, Json]) -> TreeNode:
    plan, metric = as_text(data.get("plan")), data.get("metric")
    found = replace(
        node,
        parent_id=as_text(data.get("parent_id")) or node.parent_id,
        plan=plan or node.plan,
        is_replica=node.is_replica or plan == REPLICA_PLAN,
    )
    if as_number(metric) is not None or as_text(metric):
        found = replace(found, metric=metric)
    if kind == SELECTED:
        return replace(found, is_best=True)
    if kind == EXECUTING:
        return replace(found, state="executing")
    if kind == COMPLETED:
        state = "failed" if data.get("is_buggy") is True else "scored"
        return replace(found, state=state, seconds=as_number(data.get("exec_time_s")))
    return found


def _unmark_others(nodes: dict[str, TreeNode], best: TreeNode) -> None:
    """The last selection of a node of a stage counts."""
    for each in list(nodes.values()):
        if each.is_best and each.stage == best.stage and each.node_id != best.node_id:
            nodes[each.node_id] = replace(each, is_best=False)


# ── as text ─────────────────────────────────────────────────────────────────────────────────────────────────


def tree_lines(nodes: Sequence[TreeNode], width: int = WIDTH) -> Iterator[str]:
    """One line a node, below its parent; replicas are counted at their node."""
    for position, stage in enumerate(dict.fromkeys(node.stage for node in nodes)):
        if position:
            yield ""
        for line in _stage_lines([node for node in nodes if node.stage == stage], nodes):
            yield line if len(line) <= width else f"{line[: width - 1]}…"


def _stage_lines(members: Sequence[TreeNode], nodes: Sequence[TreeNode]) -> Iterator[str]:
    known = {node.node_id for node in nodes}
    written = [node for node in members if not (node.is_replica and node.parent_id in known)]
    states = [node.state for node in written]
    yield one_line(
        f"{members[0].stage} {stage_title(members[0].stage)}: {len(written)} nodes, "
        f"{states.count('scored')} scored, {states.count('failed')} without a score"
    )
    for node, indent in _walk(written):
        replicas = sum(each.is_replica and each.parent_id == node.node_id for each in nodes)
        yield f"{indent} {_line(node, replicas, written)}"


def _walk(nodes: Sequence[TreeNode]) -> Iterator[tuple[TreeNode, str]]:
    """Depth first, without recursion: a chain of improvements may be long."""
    names = {node.node_id for node in nodes}
    children: dict[str | None, list[TreeNode]] = {}
    for node in nodes:
        children.setdefault(node.parent_id if node.parent_id in names else None, []).append(node)
    seen: set[str] = set()
    # Nodes of a cycle have no root; each that is left is one.
    for start in (children.get(None, []), nodes):
        level = [node for node in start if node.node_id not in seen]
        waiting = [(node, "", node is level[-1]) for node in reversed(level)]
        while waiting:
            node, indent, is_last = waiting.pop()
            if node.node_id in seen:
                continue
            seen.add(node.node_id)
            yield node, f"{indent}{'└─' if is_last else '├─'}"
            below = children.get(node.node_id, [])
            deeper = (indent + ("   " if is_last else "│  "))[:INDENT_LIMIT]
            waiting += [(child, deeper, child is below[-1]) for child in reversed(below)]


def _line(node: TreeNode, replicas: int, stage_nodes: Sequence[TreeNode]) -> str:
    parts = [_SIGNS[node.state], node.node_id.removeprefix(f"{node.stage}-"), _result(node)]
    if replicas:
        parts.append(f"×{replicas} seeds")
    if node.is_best:
        parts.append("★ selected")
    if node.parent_id and all(node.parent_id != each.node_id for each in stage_nodes):
        parts.append(f"from {node.parent_id}")
    if node.plan:
        parts.append(f"· {node.plan}")
    return one_line(" ".join(parts))


def _result(node: TreeNode) -> str:
    if node.state == "scored" and node.metric is not None:
        return number(node.metric)
    return {"created": "waiting", "executing": "running", "scored": "scored"}.get(node.state, "no score")
