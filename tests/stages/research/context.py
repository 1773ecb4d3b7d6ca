"""A research run without a worker: stages one after another, saved states and artifacts as files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from pod_worker.core.execution import CodeRunner
from pod_worker.core.model_access import ModelAccess
from pod_worker.core.run import Checkpoint, Json
from pod_worker.core.stage import Stage
from tests.training.context import FolderContext, Stop


class ResearchContext(FolderContext):
    """One stage of one attempt; the state of every stage is a file below `root`/states."""

    model_access = ModelAccess(provider="scripted")
    sandbox: CodeRunner | None = None

    def __init__(
        self,
        root: Path,
        params: dict[str, Json],
        stage: str,
        *,
        attempt: int = 1,
        pod: str = "pod",
        stop: Stop | None = None,
    ) -> None:
        super().__init__(root, params, attempt=attempt, pod=pod, stop=stop)
        self.stage = stage
        self.states = root / "states"
        self.states.mkdir(exist_ok=True)
        saved = {path.stem: json.loads(path.read_text()) for path in self.states.glob("*.json")}
        checkpoints = {name: Checkpoint(name, each["done"], each["state"]) for name, each in saved.items()}
        self.run = replace(self.run, pipeline="experiment", queue="experiment", checkpoints=checkpoints)

    def open_sandbox(self) -> CodeRunner:
        return self.sandbox or super().open_sandbox()

    def checkpoint(self, state: dict[str, Json]) -> None:
        self._save(state, done=False)

    def _save(self, state: dict[str, Json], *, done: bool) -> None:
        partial = self.states / f"{self.stage}.tmp"
        partial.write_text(json.dumps({"done": done, "state": state}))
        partial.replace(self.states / f"{self.stage}.json")

    @property
    def saved_state(self) -> dict[str, Json]:
        path = self.states / f"{self.stage}.json"
        return json.loads(path.read_text())["state"] if path.is_file() else {}

    def execute(self, stage: Stage) -> dict[str, Json]:
        """Run the stage and record that it is done."""
        summary = stage.run(self)
        self._save(summary, done=True)
        return summary
