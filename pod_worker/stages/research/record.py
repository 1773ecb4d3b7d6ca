"""The record of a research run: files on this pod, and a copy for other pods.

The files are the record (journal, code, ledger and answers of models). A copy of the small ones is an artifact
that the saved state of a stage names. An attempt continues from this pod's files, unless a later attempt on
another pod saved a copy since.
"""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path, PurePosixPath

import msgspec

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.run import Json
from pod_worker.core.stage import ROTATED_ROLE, Artifact, ArtifactKind, Context

FOLDER = "research"
ATTEMPT_FILE = "attempt"
FOLDER_MODE = 0o711  # programs of another user pass through to their own folders, and list nothing
TASK_FOLDER = "task"  # made again from the task and the seed; its hidden labels stay on the pod
FILE_BYTES = 4 * 2**20  # larger files stay on the pod: predictions, model weights
ARCHIVE_BYTES = 2 * 2**30
# What a program may leave behind is data for people, not part of the record; its curves are.
KEPT_OF_NODES = frozenset({"solution.py", "result.json", "output.txt", "curves.json"})
_BLOCK = 1 << 20


class SavedRecord(msgspec.Struct, frozen=True):
    """A copy in the artifact store."""

    key: str
    sha256: str
    bytes: int
    attempt: int
    number: int  # of the copy; rises over all attempts


class RecordError(Exception):
    """The archive is not a record; the message says why."""


class RunRecord:
    def __init__(self, context: Context) -> None:
        self.folder = context.work_dir / FOLDER
        self._latest = latest_copy(context)

    @property
    def latest(self) -> dict[str, Json] | None:
        """For the saved state of a stage."""
        return msgspec.to_builtins(self._latest) if self._latest else None

    def open(self, context: Context) -> None:
        """Make the folder hold the newest record.

        Raises RunError(STORAGE) when the copy cannot be used: going on without it would pay everything again.
        """
        if not context.run.checkpoints:
            self._clear()  # a person reset the run to its start
        elif self._latest and self._latest.attempt > self._attempt_of_files():
            self._restore(context, self._latest)
        self.folder.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
        _write_durably(self.folder / ATTEMPT_FILE, str(context.run.attempt))
        # From now on the run has a saved state, which says that these files are its own.
        context.checkpoint({**context.saved_state, "record": self.latest})

    def save(self, context: Context) -> None:
        """Publish a copy.

        A store that is away ends no search: the files stay here, and the next copy has them.
        """
        number = self._latest.number + 1 if self._latest else 1
        path = context.work_dir / f"{FOLDER}.tar"
        pack(self.folder, path)
        try:
            published = self._publish(context, path, number)
        except RunError as problem:
            if problem.code not in (FailureCode.STORAGE, FailureCode.NETWORK):
                raise
            context.log(f"the record stays on this pod only: {problem}", "warning")
            return
        finally:
            path.unlink(missing_ok=True)
        self._latest = SavedRecord(published.key, published.sha256, published.bytes, context.run.attempt, number)

    def _publish(self, context: Context, path: Path, number: int) -> Artifact:
        return context.artifacts.publish(
            path, ArtifactKind.CHECKPOINT, name=f"record/{number:06d}.tar", role=ROTATED_ROLE
        )

    def _clear(self) -> None:
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()

    def _attempt_of_files(self) -> int:
        try:
            return int((self.folder / ATTEMPT_FILE).read_text())
        except (OSError, ValueError):
            return -1

    def _restore(self, context: Context, copy: SavedRecord) -> None:
        path = context.work_dir / f"{FOLDER}.restored.tar"
        fresh = context.work_dir / f"{FOLDER}.restored"
        shutil.rmtree(fresh, ignore_errors=True)
        context.artifacts.fetch(copy.key, path, copy.sha256)
        try:
            unpack(path, fresh)
        except RecordError as error:
            raise RunError(
                FailureCode.STORAGE, f"the record {copy.key} cannot be used: {error}; reset the run to start over"
            ) from error
        shutil.rmtree(self.folder, ignore_errors=True)
        fresh.rename(self.folder)
        path.unlink()
        context.log(f"continuing from the record of attempt {copy.attempt}", key=copy.key)


def latest_copy(context: Context) -> SavedRecord | None:
    """The newest copy that any stage's saved state names."""
    states = [saved.state for saved in context.run.checkpoints.values()] + [context.saved_state]
    found = [each for state in states if (each := _read_copy(state.get("record")))]
    return max(found, key=lambda each: each.number, default=None)


def _read_copy(value: Json) -> SavedRecord | None:
    try:
        return msgspec.convert(value, SavedRecord)
    except msgspec.ValidationError:
        return None


# ── the archive ─────────────────────────────────────────────────────────────────────────────────────────────


def pack(folder: Path, target: Path) -> None:
    """Write an uncompressed tar of the record's files, always in the same order."""
    parts = target.with_suffix(".parts")
    with tarfile.open(parts, "w:", format=tarfile.PAX_FORMAT) as tar:
        for path in _recorded_files(folder):
            _add(tar, path, str(path.relative_to(folder)))
    parts.rename(target)


def _recorded_files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        is_kept = path.name in KEPT_OF_NODES if parts[0] == "nodes" else parts[0] != TASK_FOLDER
        if is_kept and not path.is_symlink() and path.is_file() and path.stat().st_size <= FILE_BYTES:
            yield path


def _add(tar: tarfile.TarFile, path: Path, name: str) -> None:
    """A file that a program removes or replaces while it is read is left out."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return
    with os.fdopen(descriptor, "rb") as source:
        content = source.read(FILE_BYTES)
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, BytesIO(content))


def unpack(archive: Path, folder: Path) -> None:
    """Extract plain files below `folder`.

    Raises RecordError for a member that is anything else, lies elsewhere, or is larger than a record's file.
    """
    folder.mkdir(mode=FOLDER_MODE)
    if archive.stat().st_size > ARCHIVE_BYTES:
        raise RecordError(f"it has more than {ARCHIVE_BYTES} bytes")
    try:
        with tarfile.open(archive, "r:") as tar:
            while (member := tar.next()) is not None:
                _extract(tar, member, folder)
    except (tarfile.TarError, EOFError, RecursionError, ValueError, OSError) as error:
        raise RecordError(f"it cannot be read ({type(error).__name__}: {str(error)[:200]})") from error


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise RecordError(f"its member {member.name[:80]!r} lies outside")
    if not member.isreg() or member.issparse() or member.size > FILE_BYTES:
        raise RecordError(f"its member {member.name[:80]!r} is no plain file of at most {FILE_BYTES} bytes")
    source = tar.extractfile(member)
    assert source is not None  # only None for what is not a file
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
    with source, target.open("xb") as file:
        shutil.copyfileobj(source, file, _BLOCK)


def _write_durably(path: Path, text: str) -> None:
    parts = path.with_suffix(".parts")
    with parts.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    parts.rename(path)
