"""Keeps a training's checkpoints: on disk, in the artifact store, on the run.

The run document decides which checkpoints exist: the newest ones and the best one. One that cannot be read is
logged and the one before it is used, then the start. A file that the document does not name is never read; this
disk drops it, and the control plane's sweep drops it from the store.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.payload import TrainingCheckpoint
from pod_worker.core.run import Json
from pod_worker.core.stage import ROTATED_ROLE, ArtifactKind, Context
from pod_worker.training.checkpoints.checkpoint import (
    CheckpointError,
    PackedCheckpoint,
    Progress,
    TrainingSnapshot,
    hash_file,
    pack,
    unpack,
)


class CheckpointRef(msgspec.Struct, frozen=True):
    """`key` is empty for a checkpoint that only this pod's disk has."""

    step: int
    key: str
    sha256: str
    bytes: int
    eval_loss: float | None = None  # held out, of this very step; None: this step was not evaluated


class CheckpointStore:
    """`keep` is how many of the newest checkpoints are kept beside the best one."""

    def __init__(self, context: Context, keep: int = 3) -> None:
        self._context = context
        self._keep = keep
        self._folder = context.work_dir / "checkpoints"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._entries = self._saved_refs()

    def save(self, snapshot: TrainingSnapshot) -> CheckpointRef:
        """On disk, in the store, on the run document: in this order.

        So each names only what the last one has.

        A store that is away stops no training, and a drain that ends the upload loses no step on this pod: the
        document then names the file on this disk and, beside it, the last one that any pod can fetch.
        """
        step = snapshot.progress.step
        packed = pack(snapshot, self._path(step))
        entry = CheckpointRef(step, "", packed.sha256, packed.bytes, _eval_loss(snapshot.progress))
        try:
            key = self._publish(packed)
            entry = msgspec.structs.replace(entry, key=key)
        finally:
            self._record_on_run(entry)
        return entry

    def _publish(self, packed: PackedCheckpoint) -> str:
        try:
            return self._context.artifacts.publish(
                packed.path, ArtifactKind.CHECKPOINT, name=f"checkpoints/{packed.path.name}", role=ROTATED_ROLE
            ).key
        except RunError as problem:
            if problem.code not in (FailureCode.STORAGE, FailureCode.NETWORK):
                raise
            self._context.log(f"{packed.path.name} stays on this pod only: {problem}", "warning")
            return ""

    def _record_on_run(self, entry: CheckpointRef) -> None:
        self._entries = retained([entry, *(old for old in self._entries if old.step != entry.step)], self._keep)
        newest, *older = (msgspec.to_builtins(each) for each in self._entries)
        self._context.checkpoint({**newest, "previous": older})
        if entry.key:
            self._context.emit(
                TrainingCheckpoint(step=entry.step, key=entry.key, bytes=entry.bytes, sha256=entry.sha256)
            )
        self._delete_unreferenced()

    def kept(self) -> list[dict[str, Json]]:
        """What any pod can fetch, newest first.

        For the stage's summary, which replaces its saved state.
        """
        return [
            {"step": each.step, "key": each.key, "eval_loss": each.eval_loss} for each in self._entries if each.key
        ]

    def load_latest(self, fingerprint: dict[str, str]) -> TrainingSnapshot | None:
        """The last good checkpoint of this very training, or None: begin at the start."""
        self._delete_unreferenced()
        named = list(self._entries)
        for entry in named:
            if snapshot := self._usable(entry, fingerprint):
                return snapshot
        if named:
            self._context.log("no checkpoint can be used: training begins at the start", "warning")
        return None

    def _usable(self, entry: CheckpointRef, fingerprint: dict[str, str]) -> TrainingSnapshot | None:
        """None, with a warning, when this training cannot go on from it.

        Raises RunError(NETWORK).
        """
        try:
            snapshot = self._read(entry)
        except (CheckpointError, RunError) as problem:
            if isinstance(problem, RunError) and problem.code is FailureCode.NETWORK:
                raise  # it may be there: waiting is cheaper than training again
            self._context.log(
                f"checkpoint of step {entry.step} cannot be used: {problem}", "warning", key=entry.key
            )
            return None
        changed = sorted(name for name in fingerprint if snapshot.fingerprint.get(name) != fingerprint[name])
        if not changed:
            return snapshot
        self._entries.remove(entry)  # its held-out loss must not compete with this training's
        self._context.log(
            f"checkpoint of step {entry.step} is of another training ({', '.join(changed)} changed)", "warning"
        )
        return None

    def _read(self, entry: CheckpointRef) -> TrainingSnapshot:
        path = self._path(entry.step)
        if not _is_named(path, entry):
            if not entry.key:
                raise CheckpointError("it was never uploaded and this pod's disk does not have it")
            self._context.artifacts.fetch(entry.key, path, entry.sha256)
        if not _is_named(path, entry):
            raise CheckpointError(f"{path.name} is not what was published (sha256 differs)")
        return unpack(path)

    def _saved_refs(self) -> list[CheckpointRef]:
        state = self._context.saved_state
        if "key" not in state:
            return []
        try:
            return msgspec.convert([state, *state.get("previous", [])], list[CheckpointRef])
        except (msgspec.ValidationError, TypeError) as error:
            self._context.log(f"the saved state of this stage cannot be read ({error})", "warning")
            return []

    def _path(self, step: int) -> Path:
        return self._folder / f"step-{step:08d}.tar"

    def _delete_unreferenced(self) -> None:
        """Leave only what is named.

        Older ones, and the remains of a crash, take disk for nothing.
        """
        named = {self._path(entry.step) for entry in self._entries}
        for path in self._folder.glob("step-*.tar"):
            if path not in named:
                path.unlink()
        for parts in self._folder.glob("*.parts"):
            shutil.rmtree(parts)


def retained(known: list[CheckpointRef], keep: int) -> list[CheckpointRef]:
    """The checkpoints to keep: the first `keep`, a fetchable one, the best.

    The checkpoints are given newest first.

    The best has the lowest held-out loss; of equal ones, the earliest step.
    """
    evaluated = [each for each in known if each.eval_loss is not None]
    best = min(evaluated, key=lambda each: (each.eval_loss, each.step), default=None)
    fetchable = next((each for each in known if each.key), None)
    return [each for index, each in enumerate(known) if index < keep or each in (fetchable, best)]


def _eval_loss(progress: Progress) -> float | None:
    is_evaluated = bool(progress.evals) and progress.evals[-1].step == progress.step
    return progress.evals[-1].loss if is_evaluated else None


def _is_named(path: Path, entry: CheckpointRef) -> bool:
    """Whether the file is the recorded one.

    The size comes first: hashing a huge sparse file takes hours.
    """
    return path.is_file() and path.stat().st_size == entry.bytes and hash_file(path) == entry.sha256
