"""Turns files and output of AI-Scientist-v2 into events of the run.

The search's four stages, plots, paper and validation are reported as stages of the run, although one program and
one stage of ours executes all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pod_worker.core.failure import Failure
from pod_worker.core.payload import (
    NodeCompleted,
    NodeCreated,
    NodeSelectedBest,
    PaperStarted,
    StageCompleted,
    StageFailed,
    StageMetric,
    StageProgress,
    StageStarted,
)
from pod_worker.core.stage import Context, stage_title
from pod_worker.stages.ai_scientist.journal import (
    OriginalNode,
    StageFolder,
    is_search_finished,
    read_nodes,
    read_tokens,
    stage_folders,
)
from pod_worker.stages.ai_scientist.output import OutputFacts

PLAN_CHARACTERS = 2_000
PHASES = ("Stage_1", "Stage_2", "Stage_3", "Stage_4", "plots", "paper", "validation")


class ProgressReporter:
    """`look` compares the files with what was reported before."""

    def __init__(
        self,
        context: Context,
        find_experiment: Callable[[], Path | None],
        facts: OutputFacts,
        config: dict[str, Any],
        on_search_finished: Callable[[Path], None],
        *,
        wants_paper: bool,
        is_continued: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._context = context
        self._find_experiment = find_experiment
        self._facts = facts
        self._max_iterations = config.get("agent", {}).get("stages", {})
        self._on_search_finished = on_search_finished
        self._wants_paper = wants_paper
        self._is_search_reported = is_continued  # an earlier attempt did
        self._is_search_finished = False
        self._phase: str | None = None
        self._furthest = -1  # of PHASES
        self._began = 0.0
        self._clock = clock
        self._read: dict[Path, tuple[int, int]] = {}  # journal -> size and time of change
        self._reported: set[str] = set()
        self._best: dict[str, str] = {}  # stage -> node
        self._tokens: list[object] = []

    def look(self) -> None:
        experiment = self._find_experiment()
        if experiment is None:
            return
        if not self._is_search_reported:
            self._report_search(experiment)
        if not self._is_search_finished and is_search_finished(experiment):
            self._is_search_finished = True
            self._is_search_reported = True
            self._on_search_finished(experiment)
        if self._is_search_finished:
            self._report_writing(experiment)

    def finish(self) -> None:
        """The program reached its end."""
        self._leave()

    def fail(self, failure: Failure) -> None:
        """The program, or the review at its end, failed within a phase."""
        if self._phase:
            self._context.emit(StageFailed(stage=self._phase, code=failure.code.value, message=failure.message))
            self._phase = None

    # ── the search ──────────────────────────────────────────────────────────────────────────────────────────

    def _report_search(self, experiment: Path) -> None:
        for folder in stage_folders(experiment):
            journal = folder.path / "journal.json"
            nodes = self._changed_nodes(journal)
            if nodes is None:
                continue
            self._enter(folder.wire_stage)
            for node in nodes:
                self._report_node(folder, node)
            self._report_best(folder, nodes)
            self._report_progress(folder, nodes)

    def _changed_nodes(self, journal: Path) -> list[OriginalNode] | None:
        try:
            found = journal.stat()
        except OSError:
            return None
        state = (found.st_size, found.st_mtime_ns)
        if self._read.get(journal) == state or (nodes := read_nodes(journal)) is None:
            return None
        self._read[journal] = state
        return nodes

    def _report_node(self, folder: StageFolder, node: OriginalNode) -> None:
        if node.is_buggy is None or node.id in self._reported:
            return
        self._reported.add(node.id)
        stage, plan = folder.wire_stage, node.plan[:PLAN_CHARACTERS]
        self._context.emit(NodeCreated(stage=stage, node_id=node.id, parent_id=node.parent, plan=plan))
        self._context.emit(
            NodeCompleted(
                stage=stage,
                node_id=node.id,
                parent_id=node.parent,
                plan=plan,
                is_buggy=node.is_buggy,
                exec_time_s=node.exec_seconds,
                metric=node.metric,
            )
        )

    def _report_best(self, folder: StageFolder, nodes: list[OriginalNode]) -> None:
        best = next((node for node in nodes if node.id == folder.best_node()), None)
        if best and best.is_good and self._best.get(folder.wire_stage) != best.id:
            self._best[folder.wire_stage] = best.id
            self._context.emit(
                NodeSelectedBest(
                    stage=folder.wire_stage, node_id=best.id, parent_id=best.parent, metric=best.metric
                )
            )

    def _report_progress(self, folder: StageFolder, nodes: list[OriginalNode]) -> None:
        limit = self._max_iterations.get(f"stage{folder.stage}_max_iters")
        limit = limit if isinstance(limit, int) and limit > 0 else None
        self._context.emit(
            StageProgress(
                stage=folder.wire_stage,
                progress=min(len(nodes) / limit, 1.0) if limit else 0.0,
                iteration=len(nodes),
                max_iterations=limit,
                good_nodes=sum(node.is_good for node in nodes),
                buggy_nodes=sum(node.is_buggy is True for node in nodes),
                total_nodes=len(nodes),
                best_metric=folder.best_metric(),
            )
        )

    # ── plots, paper, review ────────────────────────────────────────────────────────────────────────────────

    def _report_writing(self, experiment: Path) -> None:
        has_figures = (experiment / "token_tracker.json").exists()  # first written after the figures
        if not has_figures:
            self._enter("plots")
            return
        self._report_tokens(experiment)
        if self._facts.is_review_done or self._facts.is_finished or not self._wants_paper:
            self._leave()
        elif self._facts.is_paper_found:
            self._enter("validation")
        else:
            self._enter("paper")

    def _report_tokens(self, experiment: Path) -> None:
        counts = read_tokens(experiment)
        if counts == self._tokens or not counts:
            return
        self._tokens = list(counts)
        tokens = sum(each.prompt + each.completion for each in counts)
        stage = self._phase or "plots"
        self._context.emit(StageMetric(stage=stage, name="llm_tokens", value=float(tokens)))
        usd = sum(each.usd for each in counts)
        self._context.emit(StageMetric(stage=stage, name="llm_usd", value=usd, unit="USD"))

    # ── phases ──────────────────────────────────────────────────────────────────────────────────────────────

    def _enter(self, phase: str) -> None:
        """Only forward: a change in the files of an earlier stage is no return to it."""
        if PHASES.index(phase) <= self._furthest:
            return
        self._leave()
        self._phase = phase
        self._furthest = PHASES.index(phase)
        self._began = self._clock()
        self._context.emit(StageStarted(stage=phase, desc=stage_title(phase)))
        if phase == "paper":
            self._context.emit(PaperStarted())

    def _leave(self) -> None:
        if self._phase:
            seconds = round(self._clock() - self._began, 3)
            self._context.emit(StageCompleted(stage=self._phase, duration_s=seconds))
            self._phase = None
