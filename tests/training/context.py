"""A Context on a folder: artifacts are files, the run document's state is a JSON file, events are a list.

Everything a later attempt needs is on disk, so another process can go on where a killed one stopped.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.payload import Payload, RunLog, StageMetric
from pod_worker.core.run import Json, Run, RunStatus
from pod_worker.core.stage import Artifact, ArtifactKind


class FolderArtifacts:
    def __init__(self, root: Path, attempt: int) -> None:
        self.root, self.attempt = root, attempt
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
        key = f"runs/test/{self.attempt}/{name or path.name}"
        target = self.root / key
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        data = target.read_bytes()
        artifact = Artifact(
            key, len(data), hashlib.sha256(data).hexdigest(), kind.value, "application/octet-stream", role
        )
        self.published.append(artifact)
        return artifact

    def fetch(self, key: str, target: Path, sha256: str | None = None) -> Path:
        if self.is_unreachable:
            raise RunError(FailureCode.NETWORK, "the control plane cannot be reached")
        source = self.root / key
        if not source.is_file():
            raise RunError(FailureCode.STORAGE, f"{key} is not in the store")
        data = source.read_bytes()
        if sha256 not in (None, hashlib.sha256(data).hexdigest()):
            raise RunError(FailureCode.STORAGE, f"{key} has another sha256")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        return target


class Stop:
    """Raises `reason` from the given number of checks on; each check may be watched."""

    def __init__(self, after: int | None = None, reason: type[BaseException] | None = None) -> None:
        self.left, self.reason = after, reason
        self.checks = 0

    def check(self) -> None:
        self.checks += 1
        if self.reason and self.left is not None and self.checks > self.left:
            raise self.reason

    def is_set(self) -> bool:
        return self.left is not None and self.checks >= self.left


class FolderContext:
    stage = "training"

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
        self.root = root
        self.work_dir = root / pod
        self.work_dir.mkdir(parents=True, exist_ok=True)
        self.run = Run(
            id="test",
            pipeline="training",
            queue="training",
            status=RunStatus.RUNNING,
            params=params,
            attempt=attempt,
        )
        self.artifacts = FolderArtifacts(root / "store", attempt)
        self.stop = stop or Stop()
        self.events: list[Payload] = []
        self._on_emit = on_emit

    def emit(self, payload: Payload) -> str:
        self.events.append(payload)
        self._on_emit(payload)
        return str(len(self.events))

    def log(self, message: str, level: str = "info", **fields: Json) -> None:
        self.emit(RunLog(message=message, level=level, kv=fields or None))  # type: ignore[arg-type]

    def checkpoint(self, state: dict[str, Json]) -> None:
        partial = self.root / "state.tmp"
        partial.write_text(json.dumps(state))
        partial.replace(self.root / "state.json")

    @property
    def saved_state(self) -> dict[str, Json]:
        path = self.root / "state.json"
        return json.loads(path.read_text()) if path.is_file() else {}

    # ── what tests ask ──────────────────────────────────────────────────────────────────────────────────────

    def metric(self, name: str) -> list[float]:
        return [each.value for each in self.events if isinstance(each, StageMetric) and each.name == name]

    def logs(self, level: str | None = None) -> list[str]:
        found = [each for each in self.events if isinstance(each, RunLog)]
        return [each.message for each in found if level in (None, each.level)]
