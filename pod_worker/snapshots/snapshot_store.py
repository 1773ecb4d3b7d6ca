"""Snapshots of a folder in the artifact store, and its restoration on any pod.

The order is packs, manifest, run document; each names only what the one before has. So a snapshot that was begun
and not finished is named nowhere. Files on this disk are never trusted: an attempt begins with the newest whole
snapshot, although a file of an earlier attempt may be newer, because it may be half written.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

import msgspec

from pod_worker.core.failure import FailureCode, Interruption, RunError
from pod_worker.core.run import Json
from pod_worker.core.stage import ROTATED_ROLE, ArtifactKind, Context
from pod_worker.process.removal import remove
from pod_worker.process.supervised_thread import SupervisedThread
from pod_worker.snapshots.draft import DraftReader, FileChunk, FolderDraft, UnstableFolderError
from pod_worker.snapshots.folder import OpenedFolder, UnreadableError
from pod_worker.snapshots.manifest import (
    ManifestError,
    PackedFile,
    SnapshotManifest,
    SnapshotPack,
    StoredChunk,
    decode,
)
from pod_worker.snapshots.packs import ChunkPlace, PackStaging, StagedPack
from pod_worker.snapshots.restoring import CorruptChunkError, replace_folder, restore_folder
from pod_worker.snapshots.saved import STATE_KEY, SavedSnapshot, decode_saved, encode_saved

_POLL_SECONDS = 1.0
REQUEST_PAUSE_SECONDS = 10.0  # requests of the command that come sooner are joined
_SCAN_SHARE = 50  # a pause is this many times longer than the scan before it
_WAIT_SECONDS = 86_400.0  # for an upload in progress at the end; the supervisor ends one that takes too long


class SnapshotStore:
    """Saves and restores one folder.

    `every_seconds` is the shortest time between two snapshots, `keep` how many are kept.

    `keep_initial_files`: without a snapshot, `restore` leaves the files that the caller put into the folder.
    """

    def __init__(
        self, context: Context, folder: Path, every_seconds: float, keep: int, keep_initial_files: bool = False
    ) -> None:
        self._context = context
        self._folder = folder
        self._every_seconds = every_seconds
        self._keep = max(keep, 1)
        self._keep_initial_files = keep_initial_files
        self._staging = context.work_dir / "snapshots.staging"
        self._lock = threading.Lock()
        self._reader = DraftReader(folder)
        self._kept = self._saved_snapshots()
        self._number = max((each.number for each in self._kept), default=0)
        self._newest: SnapshotManifest | None = None
        self._places: dict[bytes, ChunkPlace] = {}  # chunks that are in the artifact store
        self._digest = b""  # of the folder as it is in the newest snapshot
        self._seen_digest = b""
        self._next_at = 0.0
        self._requested = threading.Event()
        self._next_request_at = 0.0
        self._said: set[str] = set()
        pause = (every_seconds, max(every_seconds, 30.0))
        self._thread = SupervisedThread(
            "snapshots", self._poll, backoff_seconds=pause, stuck_seconds=None, log=self._warn
        )

    @property
    def state(self) -> dict[str, Json]:
        """For the stage's summary, which replaces its saved state.

        It must go on naming the snapshots.
        """
        return {STATE_KEY: encode_saved(self._kept)[1]} if self._kept else {}

    # ── back ────────────────────────────────────────────────────────────────────────────────────────────────

    def restore(self) -> bool:
        """Make the folder the newest whole snapshot.

        False: there is none, and the folder is empty.

        Raises RunError(NETWORK) while the store cannot be reached, and OSError.
        """
        remove(self._staging)
        self._staging.mkdir(parents=True)
        for saved in self._kept:
            if self._is_restored(saved):
                self._context.log(f"checkpoints restored from snapshot {saved.number}", key=saved.key)
                return True
        if self._kept:
            self._warn("no snapshot can be used: the command begins without checkpoints")
        if not self._keep_initial_files:
            fresh = self._staging / "restored"
            remove(fresh)
            fresh.mkdir()
            replace_folder(self._folder, fresh, self._staging)
            # An empty folder is no change: a snapshot of it would only delay the first one of a checkpoint.
            with OpenedFolder(self._folder) as opened:
                self._digest = opened.scan().digest()
        self._folder.mkdir(parents=True, exist_ok=True)
        return False

    def _is_restored(self, saved: SavedSnapshot) -> bool:
        try:
            manifest = self._fetch_manifest(saved)
            restore_folder(manifest, self._folder, self._staging, self._fetch_pack)
        except (ManifestError, CorruptChunkError, RunError) as problem:
            if isinstance(problem, RunError) and problem.code is FailureCode.NETWORK:
                raise  # it may be there: waiting is cheaper than computing again
            self._warn(f"snapshot {saved.number} ({saved.key}) cannot be used: {problem}")
            return False
        self._adopt(manifest)
        return True

    def _fetch_manifest(self, saved: SavedSnapshot) -> SnapshotManifest:
        path = self._context.artifacts.fetch(saved.key, self._staging / "fetched.manifest", saved.sha256)
        manifest = decode(path.read_bytes())
        path.unlink()
        return manifest

    def _fetch_pack(self, pack: SnapshotPack, target: Path) -> Path:
        return self._context.artifacts.fetch(pack.key, target, pack.sha256)

    def _adopt(self, manifest: SnapshotManifest) -> None:
        """Know the restored files and the stored chunks.

        Nothing is read or uploaded again.
        """
        packs = [StagedPack(None, each.bytes, each) for each in manifest.packs]
        chunks = {
            each.path: tuple(FileChunk(chunk.index, chunk.size, chunk.digest) for chunk in each.chunks)
            for each in manifest.files
        }
        self._places = {
            chunk.digest: ChunkPlace(packs[chunk.pack], chunk.offset)
            for each in manifest.files
            for chunk in each.chunks
        }
        self._newest = manifest
        with OpenedFolder(self._folder) as opened:
            scan = opened.scan()
        for entry in scan.files():
            self._reader.remember(entry, chunks[entry.path])
        self._digest = scan.digest()

    # ── out ─────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Watch the folder, in a thread, until `close`."""
        self._thread.start()

    def close(self) -> None:
        """End the thread, after a snapshot in progress."""
        self._thread.stop(_WAIT_SECONDS)

    def request_snapshot(self) -> None:
        """Take a snapshot of a changed folder in the thread, before its time."""
        self._requested.set()
        self._thread.wake()

    def snapshot_now(self, reason: str) -> bool:
        """Save the folder as it is now; True: the newest snapshot is the folder.

        Otherwise the snapshot before it stays, and a warning says why. Raises what the stop signal raises.
        """
        with self._lock:
            try:
                return self._take(reason)
            except UnstableFolderError as unstable:
                self._warn(
                    f"no snapshot ({reason}): the checkpoint folder changed while it was read: {unstable}. Write "
                    "a checkpoint under a temporary name elsewhere and rename it into the folder"
                )
            except (RunError, UnreadableError, OSError) as problem:
                self._warn(f"no snapshot ({reason}), the checkpoints stay on this pod only: {problem}")
            finally:
                now = time.monotonic()
                self._next_at = now + self._every_seconds
                self._next_request_at = now + REQUEST_PAUSE_SECONDS
            return False

    def _take(self, reason: str) -> bool:
        opened: list[PackStaging] = []

        def open_staging(total_bytes: int) -> PackStaging:
            opened.append(self._new_staging(total_bytes))
            return opened[0]

        places = dict(self._places)
        self._staging.mkdir(parents=True, exist_ok=True)
        try:
            draft = self._reader.read(places, open_staging)
            self._report_left_out(draft)
            if not draft.scan.entries:
                return not self._kept  # an empty folder replaces no snapshot
            self._save(draft, reason)
        finally:
            for each in opened:
                each.discard()
        self._digest = draft.scan.digest()
        return True

    def _new_staging(self, total_bytes: int) -> PackStaging:
        for left in self._staging.glob("*.pack"):
            left.unlink()
        return PackStaging(self._staging, total_bytes, self._upload)

    def _save(self, draft: FolderDraft, reason: str) -> None:
        packs = list(dict.fromkeys(place.pack for place in draft.places.values()))
        manifest = _manifest(self._number + 1, draft, packs)
        if self._newest is not None and self._newest.holds_same_as(manifest):
            return
        for pack in packs:
            self._upload(pack)
        self._number += 1
        manifest = _manifest(self._number, draft, packs)
        saved = self._publish_manifest(manifest, draft)
        kept, state = encode_saved([saved, *self._kept][: self._keep])
        self._context.checkpoint({**self._context.saved_state, STATE_KEY: state})
        self._kept, self._newest, self._places = kept, manifest, draft.places
        self._context.log(
            f"snapshot {saved.number} of the checkpoints ({reason})",
            key=saved.key,
            files=saved.files,
            bytes=saved.bytes,
        )

    def _upload(self, pack: StagedPack) -> None:
        if pack.stored is not None or pack.path is None:
            return
        name = f"snapshots/{self._number + 1:06d}.{pack.path.name}"
        made = self._context.artifacts.publish(pack.path, ArtifactKind.CHECKPOINT, name, ROTATED_ROLE)
        pack.stored = SnapshotPack(made.key, made.sha256, made.bytes)
        pack.path.unlink()
        pack.path = None

    def _publish_manifest(self, manifest: SnapshotManifest, draft: FolderDraft) -> SavedSnapshot:
        path = self._staging / "new.manifest"
        path.write_bytes(manifest.encode())
        name = f"snapshots/{manifest.number:06d}.manifest"
        made = self._context.artifacts.publish(path, ArtifactKind.CHECKPOINT, name, ROTATED_ROLE)
        path.unlink()
        total = sum(each.size for each in draft.scan.files())
        keys = tuple(pack.key for pack in manifest.packs)
        return SavedSnapshot(manifest.number, made.key, made.sha256, total, len(manifest.files), keys)

    # ── the thread ──────────────────────────────────────────────────────────────────────────────────────────

    def _poll(self) -> float | None:
        began = time.monotonic()
        is_requested = self._take_request()  # before the scan, which then sees all that the command wrote before
        try:
            with OpenedFolder(self._folder) as opened:
                digest = opened.scan().digest()
            cost = time.monotonic() - began
            is_due = self._is_due(digest)
            if is_due or (is_requested and digest != self._digest):
                self.snapshot_now("request" if is_requested else "change")
        except FileNotFoundError:
            return _POLL_SECONDS  # the command deleted the folder, and may make it again
        except Interruption:
            return None  # the thread that waits for the command sees it too
        return max(min(_POLL_SECONDS, self._every_seconds / 4), cost * _SCAN_SHARE)

    def _take_request(self) -> bool:
        if not self._requested.is_set() or time.monotonic() < self._next_request_at:
            return False
        self._requested.clear()
        return True

    def _is_due(self, digest: bytes) -> bool:
        """Whether the folder changed, and is quiet since the last look.

        One that is never quiet is tried after twice the time.
        """
        is_quiet, self._seen_digest = digest == self._seen_digest, digest
        late = time.monotonic() - self._next_at
        return digest != self._digest and (late >= self._every_seconds or (late >= 0 and is_quiet))

    def _report_left_out(self, draft: FolderDraft) -> None:
        for each in draft.scan.left_out:
            if each not in self._said and len(self._said) < 20:
                self._said.add(each)
                self._warn(f"left out of the snapshots: {each}")

    def _saved_snapshots(self) -> list[SavedSnapshot]:
        try:
            return decode_saved(self._context.saved_state.get(STATE_KEY))
        except (msgspec.ValidationError, IndexError, TypeError, KeyError, ValueError) as error:
            self._warn(f"the saved state names no usable snapshots ({error})")
            return []

    def _warn(self, message: str) -> None:
        self._context.log(message, "warning")


def _manifest(number: int, draft: FolderDraft, packs: list[StagedPack]) -> SnapshotManifest:
    """The manifest of a draft.

    Packs without an artifact have an empty key: such a manifest is for a comparison only.
    """
    position = {pack: index for index, pack in enumerate(packs)}

    def stored(chunk: FileChunk) -> StoredChunk:
        place = draft.places[chunk.digest]
        return StoredChunk(chunk.position, chunk.size, chunk.digest, position[place.pack], place.offset)

    return SnapshotManifest(
        number=number,
        packs=[pack.stored or SnapshotPack("", "", pack.bytes) for pack in packs],
        folders=[(each.path, each.mode) for each in draft.scan.entries if each.kind == "folder"],
        files=[
            PackedFile(
                each.path, each.mode, each.size, each.modified_ns, [stored(c) for c in draft.files[each.path]]
            )
            for each in draft.scan.files()
        ],
        links=[(each.path, each.target) for each in draft.scan.entries if each.kind == "link"],
    )
