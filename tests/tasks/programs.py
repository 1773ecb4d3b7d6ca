"""Executes a program as a node of a search does: in the sandbox, with the task's public folder, then scored."""

from __future__ import annotations

import itertools
import textwrap
from dataclasses import dataclass
from pathlib import Path

from pod_worker.core.execution import CodeRunner, ExecutionLimits, ExecutionRequest, ExecutionResult
from pod_worker.core.research.evaluation import NodeScore, RefusalKind, ResultRefusedError
from pod_worker.tasks.evaluator import PredictionsEvaluator
from pod_worker.tasks.prepare import PreparedTask
from pod_worker.tasks.result_files import clear_results
from tests.sandbox.support import NeverStop

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Trial:
    folder: Path
    result: ExecutionResult
    score: NodeScore | None
    refusal: ResultRefusedError | None

    @property
    def hidden(self) -> float:
        """The hidden score; fails the test where there is none."""
        assert self.score is not None, f"{self.refusal}\n{self.result.output}"
        assert self.score.hidden is not None
        return self.score.hidden

    @property
    def kind(self) -> RefusalKind | None:
        return self.refusal.kind if self.refusal else None


@dataclass(frozen=True, slots=True)
class Programs:
    runner: CodeRunner
    prepared: PreparedTask
    root: Path

    def run(self, program: str, seed: int = 1, wall_seconds: float = 60.0) -> Trial:
        folder = self.root / f"node-{next(_numbers)}"
        folder.mkdir(mode=0o700)
        (folder / "solution.py").write_text(textwrap.dedent(program))
        return self.run_in(folder, seed, wall_seconds)

    def run_in(self, folder: Path, seed: int = 1, wall_seconds: float = 60.0) -> Trial:
        clear_results(folder)
        request = ExecutionRequest(
            folder=folder,
            argv=("solution.py",),
            limits=ExecutionLimits(wall_seconds=wall_seconds),
            environment={
                "TASK_DIR": str(self.prepared.public),
                "OUTPUT_DIR": str(folder / "out"),
                "RUN_SEED": str(seed),
            },
            readable=(self.prepared.public,),
            denied=self.prepared.denied_paths,
            seed=seed,
        )
        result = self.runner.execute(request, NeverStop())
        try:
            return Trial(folder, result, PredictionsEvaluator(self.prepared).score(folder), None)
        except ResultRefusedError as refusal:
            return Trial(folder, result, None, refusal)
