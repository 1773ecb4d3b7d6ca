"""A small experiment with the scripted model: real data, real programs, a real PDF."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pod_worker.core.execution import CodeRunner, ExecutionRequest, ExecutionResult
from pod_worker.core.stop_signal import StopSignal
from pod_worker.stages.research.experiment import stages_of
from tests.stages.research.context import ResearchContext
from tests.stages.research.test_params import IDEA

SMALL: dict[str, Any] = {
    "idea": IDEA,
    "task": "wine",
    "model": "scripted",
    "slots": 1,
    "drafts": 1,
    "stage_1_iterations": 2,
    "stage_2_iterations": 1,
    "stage_3_iterations": 1,
    "stage_4_iterations": 1,
    "replicas": 2,
    "node_seconds": 30,
    "literature": "recorded",
    "reviews": 1,
}
SEARCHES, WRITING = ("Stage_1", "Stage_2", "Stage_3", "Stage_4"), ("plots", "paper", "validation")


class CountingRunner:
    """The sandbox, and which programs of Python were executed in it."""

    def __init__(self, runner: CodeRunner) -> None:
        self._runner = runner
        self.programs: list[str] = []

    @property
    def layers(self) -> tuple[str, ...]:
        return self._runner.layers

    def execute(self, request: ExecutionRequest, stop: StopSignal) -> ExecutionResult:
        if request.argv[0].endswith(".py"):
            self.programs.append(f"{request.folder.name}/{request.argv[0]}")
        return self._runner.execute(request, stop)

    def remove(self, folder: Path) -> None:
        self._runner.remove(folder)


class SmallExperiment:
    """A run of all stages in a folder; each attempt is a new process's view of it."""

    def __init__(self, root: Path, runner: CodeRunner) -> None:
        self.root = root
        self.runner = CountingRunner(runner)
        self.summaries: dict[str, dict[str, Any]] = {}
        for folder in (root, self.folder.parent, self.folder, self.paper):
            folder.mkdir()
            folder.chmod(0o711)  # root opens no folder for the sandbox's user; a worker's child is not root

    @property
    def folder(self) -> Path:
        return self.root / "pod" / "research"

    @property
    def paper(self) -> Path:
        return self.folder / "paper"

    def run(self, *names: str, attempt: int = 1) -> None:
        for stage in stages_of(SMALL):
            if stage.name in names:
                context = ResearchContext(self.root, SMALL, stage.name, attempt=attempt)
                context.sandbox = self.runner
                self.summaries[stage.name] = context.execute(stage)

    def artifact(self, name: str, attempt: int = 1) -> bytes:
        return (self.root / "store" / "runs" / "test" / str(attempt) / name).read_bytes()
