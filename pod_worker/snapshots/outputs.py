"""Results of a command on their way to the artifact store.

They leave during the run and at its end, also after a failure.

A file leaves early once it did not change for a while. What changes afterwards is uploaded again at the end. The
index, an artifact of its own, says which key holds which name: files with the same content are one artifact.
"""

from __future__ import annotations

import fnmatch
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Protocol

import msgspec

from pod_worker.core.failure import FailureCode, Interruption, RunError
from pod_worker.core.stage import Artifact, ArtifactKind, Context
from pod_worker.process.supervised_thread import SupervisedThread
from pod_worker.snapshots.folder import FileChangedError, FolderEntry, OpenedFolder, UnreadableError, shown
from pod_worker.snapshots.output_kinds import output_kind

FILES_LIMIT = 10_000
BYTES_LIMIT = 1 << 40
INDEX_NAME = "outputs.json"
INDEX_ROLE = "outputs"
INDEXED_FOLDERS = ("outputs/", "work/")  # where the names of the index begin
_POLL_SECONDS = 10.0
_SETTLE_SECONDS = 30.0
_SCAN_SHARE = 50  # a pause is this many times longer than the scan before it
_LAST_TRIES = 3  # for a file that something still writes when the command has ended
_WAIT_SECONDS = 86_400.0
_NAMES_SHOWN = 5


class OutputPattern(Protocol):
    """A glob relative to the working directory.

    `**` crosses folders, a folder stands for its files.
    """

    @property
    def glob(self) -> str: ...
    @property
    def required(self) -> bool: ...


class OutputFile(msgspec.Struct, frozen=True):
    """A row of the index."""

    name: str
    key: str
    sha256: str
    bytes: int
    mode: int


class OutputUploader:
    """Uploads the files of `output_dir`, and those of `root` that match a pattern.

    An artifact is named after its place: `outputs/…` or `work/…`, the names of the two folders.
    """

    def __init__(
        self, context: Context, root: Path, patterns: Sequence[OutputPattern], output_dir: Path | None = None
    ) -> None:
        self._context = context
        self._root = root
        self._patterns = [(each.glob, each.required, compile_glob(each.glob)) for each in patterns]
        self._output_dir = output_dir or context.work_dir / "outputs"
        self._done: dict[str, tuple[FolderEntry, Artifact]] = {}
        self._since: dict[str, tuple[FolderEntry, float]] = {}  # unchanged since
        self._versions: dict[str, int] = {}
        self._said: set[str] = set()
        self._thread = SupervisedThread("outputs", self._poll, stuck_seconds=None, log=self._warn)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End after an upload in progress, without a last look.

        For a run that goes on elsewhere.
        """
        self._thread.stop(_WAIT_SECONDS)

    def finish(self, is_failed: bool) -> list[Artifact]:
        """Upload what is missing, then the index; returns the artifacts.

        Raises RunError(USER_ERROR) for a required pattern without a match, and RunError(STORAGE) when the store
        refuses, both on success only: after a failure they are warnings. Raises what the stop signal raises.
        """
        self.close()
        try:
            self._upload_all()
            self._check_patterns(is_failed)
            return [*(made for _, made in self._done.values()), *self._publish_index()]
        except (RunError, OSError) as problem:
            if not is_failed:
                raise
            self._warn(f"outputs of the failed command stay on this pod: {problem}")
            return [made for _, made in self._done.values()]

    def _upload_all(self) -> None:
        for is_last in (False,) * (_LAST_TRIES - 1) + (True,):
            found = self._found()
            for name in self._done.keys() - found.keys():
                del self._done[name]  # deleted or moved by the command
            pending = [name for name in found if not self._is_done(name, found[name][1])]
            changed = [name for name in pending if not self._upload(name, *found[name])]
            if not changed:
                return
            if is_last:
                self._warn(f"outputs that something still writes were not uploaded: {_listed(changed)}")

    def _poll(self) -> float | None:
        began = time.monotonic()
        try:
            found = self._found()
            cost = time.monotonic() - began
            for name, (folder, entry) in found.items():
                if self._context.stop.is_set() or self._thread.is_stopping:
                    return None
                if self._is_settled(name, entry) and not self._is_done(name, entry):
                    self._upload(name, folder, entry)
        except RunError as problem:
            self._warn(f"an output is uploaded later: {problem}")
            return _POLL_SECONDS
        except Interruption:
            return None  # the thread that waits for the command sees it too
        return max(_POLL_SECONDS, cost * _SCAN_SHARE)

    def _is_done(self, name: str, entry: FolderEntry) -> bool:
        return name in self._done and self._done[name][0] == entry

    def _is_settled(self, name: str, entry: FolderEntry) -> bool:
        """Whether a file was unchanged long enough.

        Longer for each version that was uploaded: a log that pauses does not leave a hundred copies.
        """
        known = self._since.get(name)
        if known is None or known[0] != entry:
            self._since[name] = (entry, time.monotonic())
            return False
        return time.monotonic() - known[1] >= _SETTLE_SECONDS * 4.0 ** self._versions.get(name, 0)

    def _upload(self, name: str, folder: Path, entry: FolderEntry) -> bool:
        """False: the file changed meanwhile. Raises RunError for a store that refuses."""
        try:
            with OpenedFolder(folder) as opened:
                # The parent by its descriptor: a folder that is replaced with a link now is not followed.
                parent = opened.parent_of(entry.path)
                path = Path(f"/proc/self/fd/{parent}") / os.fsdecode(entry.path.rpartition(b"/")[2])
                made = self._context.artifacts.publish(path, output_kind(name), name)
        except RunError as problem:
            if problem.code is not FailureCode.USER_ERROR:
                raise
            self._warn_once(f"output {shown(os.fsencode(name))} was not uploaded: {problem}")
            return "changed while" not in problem.message
        except (FileChangedError, FileNotFoundError, NotADirectoryError):
            return False  # deleted or replaced since it was listed
        except UnreadableError as problem:
            self._warn_once(f"output {shown(os.fsencode(name))} was not uploaded: {problem}")
            return True
        self._done[name] = (entry, made)
        self._versions[name] = self._versions.get(name, 0) + 1
        return True

    def _found(self) -> dict[str, tuple[Path, FolderEntry]]:
        """Files by the name of their artifact, up to the limits."""
        found: dict[str, tuple[Path, FolderEntry]] = {}
        for folder, entry in self._listed_files():
            found.setdefault(f"{folder.name}/{os.fsdecode(entry.path)}", (folder, entry))
        kept: dict[str, tuple[Path, FolderEntry]] = {}
        total = 0
        for name, (folder, entry) in found.items():
            if len(kept) >= FILES_LIMIT or total + entry.size > BYTES_LIMIT:
                continue
            kept[name], total = (folder, entry), total + entry.size
        if left := [name for name in found if name not in kept]:
            self._warn_once(
                f"outputs beyond {FILES_LIMIT} files or {BYTES_LIMIT} bytes stay here: {_listed(left)}"
            )
        return kept

    def _listed_files(self) -> list[tuple[Path, FolderEntry]]:
        files = [(self._output_dir, entry) for entry in self._scan(self._output_dir, b"", is_reported=True)]
        for glob, _, pattern in self._patterns:
            entries = self._scan(self._root, _literal_folder(glob), is_reported=False)
            files += [(self._root, entry) for entry in entries if pattern.fullmatch(os.fsdecode(entry.path))]
        return files

    def _scan(self, folder: Path, start: bytes, is_reported: bool) -> list[FolderEntry]:
        try:
            with OpenedFolder(folder) as opened:
                scan = opened.scan(start)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except UnreadableError as problem:
            self._warn_once(f"outputs cannot be read: {problem}")
            return []
        for each in scan.left_out if is_reported else ():
            self._warn_once(f"left out of the outputs: {each}")
        return list(scan.files())

    def _check_patterns(self, is_failed: bool) -> None:
        paths = [os.fsdecode(each.path) for glob, _, _ in self._patterns for each in self._scan(
            self._root, _literal_folder(glob), is_reported=False)]  # fmt: skip
        unmatched = [
            (glob, required)
            for glob, required, pattern in self._patterns
            if not any(map(pattern.fullmatch, paths))
        ]
        for glob, _ in unmatched:
            self._warn(f"output {glob!r} matches no file of the working directory")
        missing = [glob for glob, required in unmatched if required]
        if missing and not is_failed:
            raise RunError(
                FailureCode.USER_ERROR,
                f"the command ended without its required output {missing[0]!r}: write it below the working "
                "directory, or correct the glob under 'outputs'",
            )

    def _publish_index(self) -> list[Artifact]:
        if not self._done:
            return []
        rows = [
            OutputFile(name, made.key, made.sha256, made.bytes, entry.mode)
            for name, (entry, made) in sorted(self._done.items())
        ]
        path = self._context.work_dir / INDEX_NAME
        path.write_bytes(msgspec.json.encode(rows))
        made = self._context.artifacts.publish(path, ArtifactKind.DATA, INDEX_NAME, INDEX_ROLE)
        path.unlink()
        return [made]

    def _warn_once(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            self._warn(message)

    def _warn(self, message: str) -> None:
        self._context.log(message, "warning")


def compile_glob(glob: str) -> re.Pattern[str]:
    """The expression for relative paths of matches, and of files in them.

    Raises RunError(INVALID_INPUT).
    """
    path = PurePosixPath(glob)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in glob:
        raise RunError(
            FailureCode.INVALID_INPUT,
            f"output {glob!r:.80} is no path below the working directory: remove '..' and a leading '/'",
        )
    steps = []
    for part in path.parts:
        inner = fnmatch.translate(part).removeprefix("(?s:").removesuffix(r")\Z")
        steps.append("(?:[^/]+/)*" if part == "**" else inner.replace(".*", "[^/]*") + "/")
    return re.compile(
        "(?s:" + "".join(steps).removesuffix("/") + ("[^/]+" if path.parts[-1] == "**" else "") + ")(?:/.*)?", re.S
    )


def _literal_folder(glob: str) -> bytes:
    """The folder that holds every match: what stands before the first wildcard."""
    parts = PurePosixPath(glob).parts[:-1]
    literal = next((index for index, part in enumerate(parts) if set(part) & set("*?[")), len(parts))
    return os.fsencode("/".join(parts[:literal]))


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    text = ", ".join(shown(os.fsencode(name)) for name in names[:_NAMES_SHOWN])
    return f"{text} and {more} more" if more > 0 else text
