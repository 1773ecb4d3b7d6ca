"""The child's ways out of its process: the shared spool, and the artifact store.

The publisher is built when a stage first asks for it: importing an HTTP client costs more than starting a child.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import TYPE_CHECKING

from pod_worker.core.clock import SystemClock
from pod_worker.core.credentials.secret import Redactor
from pod_worker.core.execution import CodeRunner
from pod_worker.core.failure import CancelRequested, DrainRequested, FailureCode, RunError
from pod_worker.core.stage import Artifact, ArtifactKind, Artifacts, EventEmitter, StopSignal
from pod_worker.outbox.emitter import RunEmitter
from pod_worker.outbox.ids import UlidGenerator
from pod_worker.outbox.spool import Spool
from pod_worker.worker.protocol import AttemptSpec

if TYPE_CHECKING:
    from pod_worker.content.manifest import Manifest
    from pod_worker.content.pod_client import TreeClient
    from pod_worker.content.wire import PackRef

CONTENT_CACHE = ".content"  # below the work root; no run's folder begins with a dot


def event_source(pod_id: str) -> str:
    return f"runpod://pod/{pod_id}"


def open_run_emitter(spec: AttemptSpec, redactor: Redactor) -> RunEmitter:
    clock = SystemClock()
    spool = Spool.attach(Path(spec.spool_dir), spec.spool_max_bytes)
    source = event_source(spec.pod_id)
    fence, new_id = spec.fence, UlidGenerator(clock)
    return RunEmitter(spool, source, fence.run_id, fence.attempt, clock, new_id, redactor=redactor)


class CancelOnlySignal:
    """A stop signal for transfers: a cancel ends one, a drain does not.

    At a drain the last checkpoint must still leave the pod. The supervisor ends a drain that takes too long.
    """

    def __init__(self, stop: StopSignal) -> None:
        self._stop = stop

    def check(self) -> None:
        try:
            self._stop.check()
        except DrainRequested:
            pass

    def is_set(self) -> bool:
        try:
            self._stop.check()
        except DrainRequested:
            return False
        except CancelRequested:
            return True
        return False


class LazySandbox:
    """The attempt's sandbox; its server starts at the first use, by the guard."""

    def __init__(self, fd: int, floor: str, modules: tuple[str, ...] = ()) -> None:
        os.set_inheritable(fd, False)
        self._fd, self._floor, self._modules = fd, floor, modules
        self._opened: CodeRunner | None = None

    def open(self) -> CodeRunner:
        if self._opened is None:
            from pod_worker.sandbox.client import SandboxClient
            from pod_worker.sandbox.layers import read_floor
            from pod_worker.sandbox.starting import GuardStarter

            self._opened = SandboxClient(GuardStarter(self._fd, self._modules), read_floor(self._floor))
        return self._opened


class LazyArtifacts:
    """`core.stage.Artifacts`, opened at the first use."""

    def __init__(self, spec: AttemptSpec, emitter: EventEmitter, stop: StopSignal) -> None:
        self._spec, self._emitter, self._stop = spec, emitter, CancelOnlySignal(stop)
        self._opened: Artifacts | None = None

    def publish(
        self, path: Path, kind: ArtifactKind, name: str | None = None, role: str | None = None
    ) -> Artifact:
        return self._open().publish(path, kind, name, role)

    def fetch(self, key: str, target: Path, sha256: str | None = None) -> Path:
        return self._open().fetch(key, target, sha256)

    def _open(self) -> Artifacts:
        if self._opened is None:
            from pod_worker.artifacts.ledger import UploadLedger
            from pod_worker.artifacts.publisher import Publisher

            spec = self._spec
            self._opened = Publisher(
                spec.control_plane_url,
                spec.attempt_token,
                spec.fence,
                UploadLedger(Path(spec.work_dir) / "artifacts.ledger"),
                self._emitter,
                self._stop,
                random.Random(),
            )
        return self._opened


class ContentFolders:
    """Copies of stored folders; the cache is shared by the runs of this pod."""

    def __init__(self, spec: AttemptSpec, stop: StopSignal) -> None:
        self._spec, self._stop = spec, stop

    def fetch_workdir(self, manifest: str, target: Path) -> None:
        """Make `target` the workdir of the run.

        Raises RunError(STORAGE), and what `stop` raises.
        """
        self._fetch(None, manifest, "", target)

    def fetch_data(self, folder_key: str, path: str, target: Path) -> Path:
        """Copy the folder of a data set, or what is at `path` in it, to `target`.

        Raises RunError(INVALID_INPUT) for one that is not there, RunError(STORAGE), and what `stop` raises.
        """
        if not self._fetch(folder_key, folder_key.split("/")[1], path.rstrip("/"), target):
            raise RunError(FailureCode.INVALID_INPUT, f"data set {folder_key} has no file or folder {path!r}")
        return target / path

    def _fetch(self, data_set: str | None, manifest: str, path: str, target: Path) -> bool:
        from pod_worker.content.manifest import InvalidManifestError, select
        from pod_worker.content.materialise import cached_manifest, keep_manifest, materialise

        cache = Path(self._spec.work_dir).parent / CONTENT_CACHE
        client = _LazyTreeClient(self._spec, self._stop, data_set, manifest)
        whole = cached_manifest(cache, manifest)
        if whole is None:
            whole = client.manifest()
            keep_manifest(cache, whole)
        wanted = select(whole, path)
        try:
            materialise(wanted, client.packs, target, cache, client.fetch_pack, self._stop)
        except InvalidManifestError as error:
            raise RunError(FailureCode.STORAGE, f"the manifest of a folder is not valid: {error}") from None
        return bool(wanted.files or wanted.links)


class _LazyTreeClient:
    """Asks the control plane only for what this pod lacks."""

    def __init__(self, spec: AttemptSpec, stop: StopSignal, data_set: str | None, sha256: str) -> None:
        self._spec, self._stop, self._data_set, self._sha256 = spec, stop, data_set, sha256
        self._client: TreeClient | None = None
        self._packs: list[PackRef] | None = None

    def manifest(self) -> Manifest:
        manifest, self._packs = self._opened().tree(self._sha256)
        return manifest

    def packs(self) -> list[PackRef]:
        if self._packs is None:
            self.manifest()
        assert self._packs is not None
        return self._packs

    def fetch_pack(self, pack: PackRef, target: Path) -> Path:
        return self._opened().fetch_pack(pack, target)

    def _opened(self) -> TreeClient:
        if self._client is None:
            from pod_worker.content.pod_client import TreeClient

            spec = self._spec
            self._client = TreeClient(
                spec.control_plane_url, spec.attempt_token, spec.run.id, self._stop, data_set=self._data_set
            )
        return self._client
