"""A run in a folder that can be refused, stopped and watched."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from benchmarks.gpu_check.folder_context import CountedStop as Stop
from benchmarks.gpu_check.folder_context import FolderArtifactStore, FolderRun
from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.payload import Payload, RunLog, StageMetric
from pod_worker.core.run import Json
from pod_worker.core.stage import Artifact, ArtifactKind

__all__ = ["FolderContext", "Stop"]


class FolderArtifacts(FolderArtifactStore):
    def __init__(self, root: Path, attempt: int) -> None:
        super().__init__(root, attempt)
        self.published: list[Artifact] = []
        self.refused: set[ArtifactKind] = set()
        self.stop: Stop | None = None  # an upload may be ended by a stop too
        self.is_unreachable = False

    def publish(
        self, path: Path, kind: ArtifactKind, name: str | None = None, role: str | None = None
    ) -> Artifact:
        if self.stop:
            self.stop.check()
        if kind in self.refused:
            raise RunError(FailureCode.STORAGE, "the store is away")
        artifact = super().publish(path, kind, name, role)
        self.published.append(artifact)
        return artifact

    def fetch(self, key: str, target: Path, sha256: str | None = None) -> Path:
        if self.is_unreachable:
            raise RunError(FailureCode.NETWORK, "the control plane cannot be reached")
        source = self.root / key
        if not source.is_file():
            raise RunError(FailureCode.STORAGE, f"{key} is not in the store")
        if sha256 not in (None, hashlib.sha256(source.read_bytes()).hexdigest()):
            raise RunError(FailureCode.STORAGE, f"{key} has another sha256")
        return super().fetch(key, target, sha256)


class FolderContext(FolderRun):
    artifacts: FolderArtifacts

    def __init__(
        self,
        root: Path,
        params: dict[str, Json],
        *,
        attempt: int = 1,
        pod: str = "pod",
        stop: Stop | None = None,
        on_emit: Callable[[Payload], None] = lambda _payload: None,
    ) -> None:
        super().__init__(root, params, attempt=attempt, pod=pod, stop=stop)
        self.artifacts = FolderArtifacts(root / "store", attempt)
        self.events: list[Payload] = []
        self._on_emit = on_emit

    def emit(self, payload: Payload) -> str:
        self.events.append(payload)
        self._on_emit(payload)
        return str(len(self.events))

    def log(self, message: str, level: str = "info", **fields: Json) -> None:
        self.emit(RunLog(message=message, level=level, kv=fields or None))  # type: ignore[arg-type]

    # ── what tests ask ──────────────────────────────────────────────────────────────────────────────────────

    def metric(self, name: str) -> list[float]:
        return [each.value for each in self.events if isinstance(each, StageMetric) and each.name == name]

    def logs(self, level: str | None = None) -> list[str]:
        found = [each for each in self.events if isinstance(each, RunLog)]
        return [each.message for each in found if level in (None, each.level)]
