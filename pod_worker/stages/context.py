"""The context of a stage, and the one place where a stage's end is reported.

`StageContext` wraps every stage: it emits started, completed or failed, measures the time and classifies a
failure. It does not decide what happens to the run: the child program reports the failure.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Protocol

from pod_worker.content.wire import folder_of_key
from pod_worker.core.clock import Clock
from pod_worker.core.execution import CodeRunner
from pod_worker.core.failure import CancelRequested, FailureCode, Interruption, RunError, classify
from pod_worker.core.model_access import ModelAccess
from pod_worker.core.payload import LogLevel, Payload, RunLog, StageCompleted, StageFailed, StageStarted
from pod_worker.core.run import Json, Run
from pod_worker.core.stage import Artifacts, EventEmitter, stage_title

LEVELS: dict[str, LogLevel] = {
    "debug": "debug",
    "info": "info",
    "warn": "warn",
    "warning": "warn",
    "error": "error",
}


class StopFlag:
    """Set when the run must stop; a cancel outranks a drain."""

    def __init__(self) -> None:
        self._reason: type[Interruption] | None = None
        self._deadline: float | None = None
        self._set = threading.Event()

    def request(self, reason: type[Interruption], seconds: float = 0.0) -> None:
        """`seconds` are left for an orderly end."""
        if self._reason is not CancelRequested:
            self._deadline = time.monotonic() + seconds
            self._reason = reason
        self._set.set()

    def check(self) -> None:
        if self._reason is not None:
            raise self._reason()

    def is_set(self) -> bool:
        return self._set.is_set()

    def seconds_left(self) -> float | None:
        deadline = self._deadline
        return None if deadline is None else max(deadline - time.monotonic(), 0.0)

    def wait(self, seconds: float) -> bool:
        """Sleep that ends at once when the run must stop."""
        return self._set.wait(seconds)


class StoredFolders(Protocol):
    """Folders of the content store; see `worker.child_io.ContentFolders`."""

    def fetch_workdir(self, manifest: str, target: Path) -> None: ...
    def fetch_data(self, folder_key: str, path: str, target: Path) -> Path: ...


class StageContext:
    """Implements `core.stage.Context`.

    `with StageContext(...) as context: context.summary = run(context)`.
    """

    def __init__(
        self,
        run: Run,
        stage: str,
        *,
        work_dir: Path,
        emitter: EventEmitter,
        artifacts: Artifacts,
        stop: StopFlag,
        save: Callable[[str, dict[str, Json]], None],
        clock: Clock,
        model_access: ModelAccess | None = None,
        open_sandbox: Callable[[], CodeRunner] | None = None,
        folders: StoredFolders | None = None,
        job_secrets: Mapping[str, str] | None = None,
    ) -> None:
        self.run = run
        self.stage = stage
        self.work_dir = work_dir
        self.artifacts = artifacts
        self.stop = stop
        self.model_access = model_access
        self.job_secrets: Mapping[str, str] = job_secrets or {}
        self.summary: dict[str, Json] = {}
        self._emitter = emitter
        self._open_sandbox = open_sandbox
        self._folders = folders
        self._save = save
        self._clock = clock
        self._began = 0.0
        saved = run.checkpoints.get(stage)
        self._state: dict[str, Json] = dict(saved.state) if saved else {}

    def __enter__(self) -> StageContext:
        self._began = self._clock.monotonic()
        self.emit(StageStarted(stage=self.stage, desc=stage_title(self.stage)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.emit(StageCompleted(stage=self.stage, duration_s=round(self.elapsed(), 3), summary=self.summary))
        elif not isinstance(error, Interruption):  # being stopped is no failure of the stage
            failure = classify(error, self.stage)
            self.emit(StageFailed(stage=self.stage, code=failure.code.value, message=failure.message))

    def elapsed(self) -> float:
        """Seconds since this attempt entered the stage."""
        return self._clock.monotonic() - self._began

    def fetch_workdir(self, manifest: str, target: Path) -> None:
        self._stored_folders().fetch_workdir(manifest, target)

    def fetch_data(self, key: str, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        if (found := folder_of_key(key)) is not None:
            folder_key, path = found
            return self._stored_folders().fetch_data(folder_key, path, folder / folder_key.split("/")[2])
        return self.artifacts.fetch(key, folder / Path(key).name)

    def _stored_folders(self) -> StoredFolders:
        if self._folders is None:
            raise RunError(FailureCode.INTERNAL, f"no folder can be fetched in stage {self.stage}")
        return self._folders

    def open_sandbox(self) -> CodeRunner:
        if self._open_sandbox is None:
            raise RunError(
                FailureCode.INTERNAL, f"the pipeline of stage {self.stage} does not say that it needs a sandbox"
            )
        return self._open_sandbox()

    def emit(self, payload: Payload) -> str:
        return self._emitter.emit(payload)

    def log(self, message: str, level: str = "info", **fields: Json) -> None:
        self.emit(RunLog(level=LEVELS.get(level, "info"), message=message, kv=fields or None, source=self.stage))

    def checkpoint(self, state: dict[str, Json]) -> None:
        self._state = dict(state)
        self._save(self.stage, self._state)

    @property
    def saved_state(self) -> dict[str, Json]:
        return dict(self._state)
