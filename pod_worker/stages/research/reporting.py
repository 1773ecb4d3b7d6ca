"""What a search tells the world while it runs: nodes, progress, spending."""

from __future__ import annotations

from collections.abc import Callable

from pod_worker.core.payload import (
    NodeCompleted,
    NodeCreated,
    NodeExecuting,
    NodeSelectedBest,
    StageMetric,
    StageProgress,
)
from pod_worker.core.research.measure import Metric
from pod_worker.core.stage import Context
from pod_worker.llm.client import MeteredClient
from pod_worker.search.events import SearchProgress
from pod_worker.search.tree.node import SearchNode

PLAN_CHARACTERS = 2_000


class SearchReporter:
    """Implements `search.events.SearchEvents`; shows search scores, never hidden ones."""

    def __init__(
        self, context: Context, metric: Metric, client: MeteredClient, on_progress: Callable[[], None]
    ) -> None:
        self._context, self._metric, self._client = context, metric, client
        self._on_progress = on_progress

    def node_created(self, node: SearchNode) -> None:
        self._context.emit(
            NodeCreated(stage=node.stage, node_id=node.id, parent_id=node.parent, plan=_plan(node, node.plan))
        )

    def node_executing(self, node: SearchNode) -> None:
        self._context.emit(NodeExecuting(stage=node.stage, node_id=node.id, parent_id=node.parent))

    def node_completed(self, node: SearchNode) -> None:
        self._context.emit(
            NodeCompleted(
                stage=node.stage,
                node_id=node.id,
                parent_id=node.parent,
                plan=_plan(node, node.change or node.operation.value),
                is_buggy=not node.is_scored,
                exec_time_s=node.exec_seconds,
                metric=node.search_score,
            )
        )
        if node.error:
            self._context.log(f"{node.id}: {node.error_kind}: {node.error}", "warning", node_id=node.id)

    def best_selected(self, node: SearchNode) -> None:
        self._context.emit(
            NodeSelectedBest(
                stage=node.stage,
                node_id=node.id,
                parent_id=node.parent,
                plan=node.change,
                metric=node.search_score,
            )
        )

    def progress(self, progress: SearchProgress) -> None:
        done = min(progress.iteration / progress.max_iterations, 1.0)
        self._context.emit(
            StageProgress(
                stage=progress.stage,
                progress=done,
                iteration=progress.iteration,
                max_iterations=progress.max_iterations,
                good_nodes=progress.good_nodes,
                buggy_nodes=progress.buggy_nodes,
                total_nodes=progress.total_nodes,
                best_metric=progress.best_metric,
            )
        )
        if progress.best_metric is not None:
            self._metric_point(progress, f"best {self._metric.name}", progress.best_metric, self._metric.unit)
        self._metric_point(progress, "slots_busy", progress.slots_busy)
        spent = self._client.total()
        self._metric_point(progress, "llm_calls", spent.calls)
        self._metric_point(progress, "llm_tokens", spent.tokens)
        self._metric_point(progress, "llm_usd", spent.micro_usd / 1e6, "USD")
        self._on_progress()

    def _metric_point(self, progress: SearchProgress, name: str, value: float, unit: str | None = None) -> None:
        self._context.emit(
            StageMetric(
                stage=progress.stage, name=name, value=float(value), step=progress.total_nodes, unit=unit or None
            )
        )


def _plan(node: SearchNode, text: str) -> str:
    """A replica has its original's words; the events say that it is one."""
    return node.operation.value if node.is_replica else text[:PLAN_CHARACTERS]
