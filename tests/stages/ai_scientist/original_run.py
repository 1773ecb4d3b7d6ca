"""Runs of the stand-in checkout without a worker: a context as the child makes it, artifacts as files."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import msgspec

from pod_worker.core.clock import SystemClock
from pod_worker.core.failure import Failure, Interruption, RunError
from pod_worker.core.model_access import ModelAccess
from pod_worker.core.payload import Payload, RunLog
from pod_worker.core.run import Checkpoint, Run, RunStatus
from pod_worker.pipelines import find_pipeline
from pod_worker.stages.context import StageContext, StopFlag
from tests.training.context import FolderArtifacts

CHECKOUT = Path(__file__).with_name("checkout")
KEY = "sk-stand-in-0123456789abcdef"
IDEA = {
    "Name": "noise/../of labels",
    "Title": "Does label noise hurt?",
    "Short Hypothesis": "Label noise hurts.",
    "Abstract": "We add noise.",
    "Experiments": ["with noise", "without noise"],
    "Risk Factors and Limitations": ["one data set"],
}
MODEL = "gpt-4o-2024-11-20"


def params(**more: Any) -> dict[str, Any]:
    return {"idea": IDEA, "checkout": str(CHECKOUT), "model": MODEL, **more}


class OriginalRun:
    """One run on one pod; `execute` is one attempt."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "work"
        self.root.mkdir(parents=True)
        self.store = folder / "store"
        self.events: list[Payload] = []
        self.state: dict[str, Any] = {}
        self.stop = StopFlag()
        self.access = ModelAccess(openai_api_key=KEY)
        self.program = self.root / "ai_scientist" / "program"

    def emit(self, payload: Payload) -> str:
        self.events.append(payload)
        return str(len(self.events))

    def save(self, _stage: str, state: dict[str, Any]) -> None:
        self.state = msgspec.json.decode(msgspec.json.encode(state))

    def execute(self, attempt: int = 1, **more: Any) -> dict[str, Any]:
        pipeline = find_pipeline("ai_scientist")
        checked = pipeline.check_params(params(**more))
        (stage,) = pipeline.stages(checked)
        saved = {stage.name: Checkpoint(stage.name, False, self.state)} if self.state else {}
        run = Run(
            "r", "ai_scientist", "ai_scientist", RunStatus.RUNNING, checked, attempt=attempt, checkpoints=saved
        )
        context = StageContext(
            run,
            stage.name,
            work_dir=self.root,
            emitter=self,
            artifacts=FolderArtifacts(self.store, attempt),
            stop=self.stop,
            save=self.save,
            clock=SystemClock(),
            model_access=self.access,
        )
        with context:
            context.summary = stage.run(context)
        return context.summary

    def fails(self, attempt: int = 1, **more: Any) -> Failure:
        try:
            self.execute(attempt, **more)
        except RunError as error:
            return Failure(error.code, error.message)
        raise AssertionError("the attempt succeeded")

    def on_another_pod(self, folder: Path) -> OriginalRun:
        other = OriginalRun(folder)
        other.store, other.state = self.store, self.state
        return other

    def request_when_ready(self, reason: type[Interruption]) -> None:
        def watch() -> None:
            while not (self.program / "ready").exists():
                threading.Event().wait(0.02)
            self.stop.request(reason, 600.0)

        threading.Thread(target=watch, daemon=True).start()

    # ── what tests ask ──────────────────────────────────────────────────────────────────────────────────────

    def of(self, kind: type[Payload]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def logs(self) -> str:
        return "\n".join(event.message for event in self.of(RunLog))

    def artifacts(self, attempt: int = 1) -> dict[str, Path]:
        folder = self.store / f"runs/test/{attempt}"
        return {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}

    def searches(self) -> int:
        return len((self.program / "searches").read_text().split())
