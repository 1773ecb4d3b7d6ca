"""The results of the search as the paper needs them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pod_worker.core.run import Json
from pod_worker.paper.evidence.results import RecordedCurve, RecordedNode, RecordedResults, TaskFact
from pod_worker.search.tree.journal import read_state
from pod_worker.search.tree.node import SearchNode
from pod_worker.search.tree.state import SearchState
from pod_worker.stages.research.search_session import SearchSession
from pod_worker.tasks.curves import read_curves

FIRST_STAGE, ABLATION_STAGE = "Stage_1", "Stage_4"


def recorded_results(session: SearchSession, run_id: str) -> RecordedResults:
    state = read_state(session.folder)
    task = session.task.task
    executed = [node for node in state.nodes.values() if node.outcome is not None]
    first = state.selections.get(FIRST_STAGE)
    bands = [each.band for each in state.selections.values() if each.band is not None]
    return RecordedResults(
        run_id=run_id,
        task=task.title,
        metric=task.metric,
        nodes=tuple(_nodes(state, session.folder)),
        outcomes=dict(Counter(node.outcome.value for node in executed if node.outcome)),
        task_facts=tuple(_task_facts(session.task.facts)),
        baseline_id=first.selected if first else None,
        full_method_id=full_method.id if (full_method := state.incumbent(ABLATION_STAGE)) else None,
        noise_band=bands[0] if bands else None,
        models=(session.model,),
        is_scripted=any(node.is_scripted for node in executed),
    )


def _nodes(state: SearchState, folder: Path) -> Iterator[RecordedNode]:
    for node in state.nodes.values():
        if node.is_scored and not node.is_replica:
            yield _node(state, node, folder)


def _node(state: SearchState, node: SearchNode, folder: Path) -> RecordedNode:
    replicas = [each for each in state.replicas(node.id) if each.is_scored]
    # The execution that was picked for its score proves nothing: fresh seeds count where there are some.
    runs = replicas if len(replicas) > 1 else [node, *replicas]
    selection = state.selections.get(node.stage)
    return RecordedNode(
        node_id=node.id,
        stage=node.stage,
        change=node.change,
        artifact=f"journal.ndjson#{node.id}",
        scores=tuple(score for each in runs if (score := each.selection_score) is not None),
        search_scores=tuple(each.search_score for each in runs if each.search_score is not None),
        seeds=tuple(each.seed for each in runs),
        program_sha256=node.code or "",
        plan=node.plan,
        seconds=node.exec_seconds,
        is_best=selection is not None and selection.candidate == node.id,
        is_self_reported=node.is_self_reported,
        is_confirmed=not node.is_self_reported or bool(replicas),
        curves=tuple(curve for each in runs for curve in _curves(each, folder)),
    )


def _curves(node: SearchNode, folder: Path) -> Iterator[RecordedCurve]:
    """Of this pod's files; a run that moved has those that its record kept."""
    for curve in read_curves(folder / node.folder).curves:
        yield RecordedCurve(name=curve.name, seed=node.seed, steps=curve.steps, values=curve.values)


def _task_facts(facts: dict[str, Json]) -> Iterator[TaskFact]:
    for part, count in facts["rows"].items():
        yield TaskFact(key=f"{part}_rows", value=int(count), meaning=f"rows of the {part} split")
    yield TaskFact(key="features", value=int(facts["features"]), meaning="features of a row")
    if facts["classes"]:
        yield TaskFact(key="classes", value=len(facts["classes"]), meaning="classes of the task")
