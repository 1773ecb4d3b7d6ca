"""A run on this machine alone: artifacts are files, the saved state is a file, events are dropped."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from pod_worker.core.failure import DrainRequested
from pod_worker.core.payload import Payload
from pod_worker.core.run import Json, Run, RunStatus
from pod_worker.core.stage import Artifact, ArtifactKind


class FolderArtifactStore:
    def __init__(self, folder: Path, attempt: int) -> None:
        self._folder, self._attempt = folder, attempt

    def publish(
        self, path: Path, kind: ArtifactKind, name: str | None = None, role: str | None = None
    ) -> Artifact:
        key = f"runs/check/{self._attempt}/{name or path.name}"
        target = self._folder / key
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        data = target.read_bytes()
        return Artifact(key, len(data), hashlib.sha256(data).hexdigest(), kind.value, "application/x", role)

    def fetch(self, key: str, target: Path, sha256: str | None = None) -> Path:
        """The loop compares the hash itself."""
        target.parent.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copyfile(self._folder / key, target))


class CountedStop:
    """Asks for a drain at the given number of checks."""

    def __init__(self, after: int | None) -> None:
        self._left = after

    def check(self) -> None:
        if self._left is None:
            return
        self._left -= 1
        if self._left < 0:
            raise DrainRequested

    def is_set(self) -> bool:
        return self._left is not None and self._left <= 0


class FolderRun:
    """Implements `core.stage.Context`. Each attempt has a work folder of its own, as on another pod."""

    stage = "training"

    def __init__(
        self, folder: Path, params: dict[str, Json], attempt: int = 1, stop_after: int | None = None
    ) -> None:
        self.work_dir = folder / f"attempt-{attempt}"
        self.work_dir.mkdir(parents=True)
        self.run = Run(
            id="check",
            pipeline="training",
            queue="training",
            status=RunStatus.RUNNING,
            params=params,
            attempt=attempt,
        )
        self.artifacts = FolderArtifactStore(folder, attempt)
        self.stop = CountedStop(stop_after)
        self._state = folder / "state.json"

    def emit(self, payload: Payload) -> str:
        return ""

    def log(self, message: str, level: str = "info", **fields: Json) -> None:
        pass

    def checkpoint(self, state: dict[str, Json]) -> None:
        self._state.write_text(json.dumps(state))

    @property
    def saved_state(self) -> dict[str, Json]:
        return json.loads(self._state.read_text()) if self._state.is_file() else {}
