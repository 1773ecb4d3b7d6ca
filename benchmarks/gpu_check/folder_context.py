"""A run on this machine alone: artifacts are files, the saved state is a file, events are dropped.

Everything that a later attempt needs is on disk, so another process can go on where a killed one stopped.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from pod_worker.core.execution import CodeRunner
from pod_worker.core.failure import DrainRequested, FailureCode, RunError
from pod_worker.core.model_access import ModelAccess
from pod_worker.core.payload import Payload
from pod_worker.core.run import Json, Run, RunStatus
from pod_worker.core.stage import Artifact, ArtifactKind

RUN_ID = "test"


class FolderArtifactStore:
    def __init__(self, root: Path, attempt: int) -> None:
        self.root, self.attempt = root, attempt

    def publish(
        self, path: Path, kind: ArtifactKind, name: str | None = None, role: str | None = None
    ) -> Artifact:
        key = f"runs/{RUN_ID}/{self.attempt}/{name or path.name}"
        target = self.root / key
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        data = target.read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        return Artifact(key, len(data), sha256, kind.value, "application/octet-stream", role)

    def fetch(self, key: str, target: Path, sha256: str | None = None) -> Path:
        """The training compares the hash itself."""
        target.parent.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copyfile(self.root / key, target))


class CountedStop:
    """Raises `reason` from the given number of checks on; None never does."""

    def __init__(self, after: int | None = None, reason: type[BaseException] | None = DrainRequested) -> None:
        self.left, self.reason = after, reason
        self.checks = 0

    def check(self) -> None:
        self.checks += 1
        if self.reason and self.left is not None and self.checks > self.left:
            raise self.reason

    def is_set(self) -> bool:
        return self.left is not None and self.checks >= self.left

    def seconds_left(self) -> float | None:
        return 0.0 if self.is_set() else None


class FolderRun:
    """Implements `core.stage.Context`; `pod` names the attempt's work folder."""

    stage = "training"
    model_access: ModelAccess | None = None
    job_secrets: Mapping[str, str] = {}

    def __init__(
        self,
        root: Path,
        params: dict[str, Json],
        *,
        attempt: int = 1,
        pod: str = "pod",
        stop: CountedStop | None = None,
    ) -> None:
        self.root = root
        self.work_dir = root / pod
        self.work_dir.mkdir(parents=True, exist_ok=True)
        self.run = Run(
            id=RUN_ID,
            pipeline="training",
            queue="training",
            status=RunStatus.RUNNING,
            params=params,
            attempt=attempt,
        )
        self.artifacts = FolderArtifactStore(root / "store", attempt)
        self.stop = stop or CountedStop()

    def fetch_workdir(self, manifest: str, target: Path) -> None:
        raise RunError(FailureCode.ENVIRONMENT, "this run has no workdir")

    def fetch_data(self, key: str, folder: Path) -> Path:
        source, target = self.artifacts.root / key, folder / Path(key).name
        return Path(shutil.copytree(source, target)) if source.is_dir() else self.artifacts.fetch(key, target)

    def open_sandbox(self) -> CodeRunner:
        raise RunError(FailureCode.ENVIRONMENT, "this run has no sandbox")

    def emit(self, payload: Payload) -> str:
        return ""

    def log(self, message: str, level: str = "info", **fields: Json) -> None:
        pass

    def checkpoint(self, state: dict[str, Json]) -> None:
        partial = self.root / "state.tmp"
        partial.write_text(json.dumps(state))
        partial.replace(self.root / "state.json")

    @property
    def saved_state(self) -> dict[str, Json]:
        path = self.root / "state.json"
        return json.loads(path.read_text()) if path.is_file() else {}
