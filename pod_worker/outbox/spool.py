"""A worker's folder of undelivered and recently delivered events.

One folder per worker incarnation. Its owner holds a flock for as long as it lives, so that a later worker can
recognize the spool of a dead one and adopt it; a child process attaches without owning. The spool bounds the
folder's size and keeps a reserve for facts on a full disk. It knows neither events' contents nor the network.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pod_worker.core.clock import Clock, SystemClock
from pod_worker.core.credentials.attempt_token import AttemptClaim
from pod_worker.core.identifiers.path_segment import identifier_of, path_segment
from pod_worker.outbox.ownership import OWNER, is_linked, join, make_private, try_own
from pod_worker.outbox.segment_files import FACTS, SAMPLES, segment_entries, whole_lines
from pod_worker.outbox.spool_eviction import DroppedSamples, evict, segments
from pod_worker.outbox.stream import Stream, Write

DEFAULT_BYTES = 512 * 1024 * 1024
_SEGMENT_BYTES = 4 * 1024 * 1024
_RESERVE_BYTES = 1024 * 1024
_OPEN_STREAMS = 16  # with descriptors of this process; older ones are closed and reopen when they are written
_RESERVE = "reserve"
_RUN = "run-"
DEAD_LETTER = "dead_letter.ndjson"
DEAD_LETTER_BYTES = 64 * 1024 * 1024
DEAD_LETTER_SECONDS = 30 * 86_400.0


KEPT_STREAMS = 200  # delivered ones, to look at
SURPLUS_SECONDS = 600.0


class SpoolInUseError(RuntimeError):
    """Another living process owns the folder."""


class _Identified(msgspec.Struct):
    id: str


class _Addressed(msgspec.Struct):
    subject: str = ""


@dataclass(frozen=True, slots=True)
class WriteResult:
    """Whether a line is on disk, and the samples that were removed to make room."""

    is_recorded: bool
    evicted: tuple[DroppedSamples, ...] = ()


_RECORDED, _DROPPED = WriteResult(True), WriteResult(False)


class Spool:
    """Use `Spool.open` (the worker), `Spool.attach` or `adopt_orphans`."""

    def __init__(
        self,
        directory: Path,
        max_bytes: int = DEFAULT_BYTES,
        clock: Clock | None = None,
        owner_fd: int | None = None,
        write: Write = os.write,
    ) -> None:
        self.directory = directory
        self.max_bytes = max_bytes
        self.dropped = 0  # samples that this process could not write, for want of disk
        self.is_adopted = False
        self._clock = clock or SystemClock()
        self._owner_fd = owner_fd
        self._shared_gid: int | None = None
        self._write = write
        self._segment_bytes = max(4096, min(_SEGMENT_BYTES, max_bytes // 16))
        self._mutex = threading.Lock()
        self._streams: dict[str, Stream] = {}
        self._member_fd = join(directory)

    @classmethod
    def open(cls, root: Path, worker_id: str, max_bytes: int = DEFAULT_BYTES, clock: Clock | None = None) -> Spool:
        """Create (or take over from a dead owner) the folder of this worker and own it.

        Raises SpoolInUseError if a living process owns it, OSError if the disk refuses or if `root` is a link or
        belongs to another user.
        """
        make_private(root)
        final = root / f"worker-{path_segment(worker_id)}"
        if not final.exists():
            # Owned before it has its name: no other worker can adopt it in the moment between.
            fresh = root / f".new-{final.name}-{os.getpid()}"
            fresh.mkdir(mode=0o700)
            fd = try_own(fresh)
            os.rename(fresh, final)
        else:
            fd = try_own(final)
        if fd is None:
            raise SpoolInUseError(f"{final} belongs to a living worker; give each worker an id of its own")
        spool = cls(final, max_bytes, clock, fd)
        spool.fill_reserve()
        return spool

    @classmethod
    def attach(cls, directory: Path, max_bytes: int = DEFAULT_BYTES, clock: Clock | None = None) -> Spool:
        """Share a folder that another process owns, to emit into it or to read it."""
        return cls(directory, max_bytes, clock)

    @property
    def dead_letter(self) -> Path:
        return self.directory / DEAD_LETTER

    # -- writing ---------------------------------------------------------------------------------------------

    def stream(self, name: str) -> Stream:
        """The one Stream of this process for a name made by `run_stream` or `pod_stream`.

        At most _OPEN_STREAMS keep their descriptors: a long-lived worker works on many runs, one after another.
        """
        with self._mutex:
            if name not in self._streams:
                self._streams[name] = Stream(self.directory / name, self._segment_bytes, self._write)
                for older in [*self._streams.values()][:-_OPEN_STREAMS]:
                    older.close()
            return self._streams[name]

    def append(self, stream: Stream, lane: int, before: bytes, after: bytes, numbered: bool) -> WriteResult:
        """One durable line; a sample that the disk refuses is counted in `dropped`.

        A fact makes room for itself: delivered segments go first, then samples, then the reserve; only then is
        OSError raised.
        """
        try:
            closed = stream.append(lane, before, after, numbered)
        except OSError:
            if lane == SAMPLES:
                with self._mutex:
                    self.dropped += 1
                return _DROPPED
            return self._append_fact(stream, before, after, numbered)
        return WriteResult(True, self.enforce_limit()) if closed else _RECORDED

    def _append_fact(self, stream: Stream, before: bytes, after: bytes, numbered: bool) -> WriteResult:
        _, evicted = evict(self.stream_folders(), 2 * self._segment_bytes, may_drop_samples=True)
        try:
            stream.append(FACTS, before, after, numbered)
            return WriteResult(True, evicted)
        except OSError:
            (self.directory / _RESERVE).unlink(missing_ok=True)
        try:
            stream.append(FACTS, before, after, numbered)
        except OSError as error:
            raise OSError(
                error.errno,
                f"{error.strerror}: an event could not be recorded; free space and inodes under {self.directory}",
            ) from error
        return WriteResult(True, evicted)

    def enforce_limit(self) -> tuple[DroppedSamples, ...]:
        """Bring the folder back under `max_bytes`; returns the samples lost for it."""
        excess = self.size_bytes() - self.max_bytes
        if excess <= 0:
            return ()
        freed, _ = evict(self.stream_folders(), excess, may_drop_samples=False)
        if freed < excess:
            # Runs that ended long ago keep small segments open: end those that are delivered.
            for folder in self.stream_folders():
                if any(found.is_acked and found.bytes and not found.is_closed for found in segments(folder)):
                    self.stream(folder.name).close_segments()
        return evict(self.stream_folders(), excess - freed, may_drop_samples=True)[1] if freed < excess else ()

    def fill_reserve(self) -> bool:
        """Keep a little of the disk for facts. False while the disk is too full to."""
        path = self.directory / _RESERVE
        if path.exists():
            return True
        try:
            if shutil.disk_usage(self.directory).free < 4 * _RESERVE_BYTES:
                return False
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError:  # no inode left, or the folder is gone
            return False
        try:
            os.posix_fallocate(fd, 0, _RESERVE_BYTES)
        except OSError:
            path.unlink(missing_ok=True)
            return False
        finally:
            os.close(fd)
        return True

    def append_dead_letter(self, letters: bytes) -> None:
        """Append to the dead-letter file.

        At most two of DEAD_LETTER_BYTES are kept. Raises OSError.
        """
        path = self.dead_letter
        if path.exists() and path.stat().st_size + len(letters) > DEAD_LETTER_BYTES:
            os.replace(path, path.with_suffix(".old.ndjson"))
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(path, flags, 0o600), "ab") as file:
            file.write(letters)

    # -- reading ---------------------------------------------------------------------------------------------

    def stream_names(self) -> list[str]:
        """Empty also while the folder is missing: see `restore`."""
        try:
            with os.scandir(self.directory) as entries:
                return sorted(
                    entry.name
                    for entry in entries
                    if entry.name.startswith(("run-", "pod-")) and entry.is_dir(follow_symlinks=False)
                )
        except FileNotFoundError:
            return []
        except PermissionError:  # a child under a user of its own knows its own streams only
            return sorted(name for name, stream in self._streams.items() if stream.directory.is_dir())

    def stream_folders(self) -> list[Path]:
        return [self.directory / name for name in self.stream_names()]

    def size_bytes(self) -> int:
        """Bytes of all segments, delivered or not."""
        return sum(found.bytes for folder in self.stream_folders() for found in segments(folder))

    def lines(self, name: str | None = None) -> Iterator[bytes]:
        """Every whole line on disk, of one stream or of all: facts, overflow, samples."""
        for folder in self.stream_folders() if name is None else [self.directory / name]:
            for entry in segment_entries(folder):
                yield from whole_lines(Path(entry.path))

    def event_ids(self, run_id: str, attempt: int) -> list[str]:
        """The id of every event of an attempt that is still on disk."""
        lines = self.lines(run_stream(run_id, attempt))
        return [msgspec.json.decode(line, type=_Identified).id for line in lines]

    # -- keeping and ending ----------------------------------------------------------------------------------

    def restore(self) -> bool:
        """Create and own the folder again where another program removed it.

        What was in it and not delivered is lost. New events are kept, and no other worker adopts the folder.
        Raises OSError if the disk refuses, SpoolInUseError if another worker has taken the name meanwhile.
        """
        if self._owner_fd is None or is_linked(self._owner_fd, self.directory / OWNER):
            return False
        make_private(self.directory)
        fd = try_own(self.directory)
        if fd is None:
            raise SpoolInUseError(f"{self.directory} was removed and belongs to another worker now")
        with self._mutex:
            for stream in self._streams.values():
                stream.close()
            os.close(self._owner_fd)
            os.close(self._member_fd)
            self._owner_fd, self._member_fd = fd, join(self.directory)
        if self._shared_gid is not None:
            self.share_with_group(self._shared_gid)
        self.fill_reserve()
        return True

    def prune(self, older_than: float, kept: int = KEPT_STREAMS, surplus_after: float = SURPLUS_SECONDS) -> int:
        """Remove streams that are delivered and quiet for `older_than` seconds.

        Beyond the newest `kept` streams, `surplus_after` seconds are enough: every stream costs the shipper a
        look. A run that lives is never quiet for so long, it has heartbeats.
        """
        now = self._clock.now().timestamp()
        folders = sorted(self.stream_folders(), key=_last_write, reverse=True)
        return sum(
            self._remove_delivered(folder, now - (older_than if place < kept else min(surplus_after, older_than)))
            for place, folder in enumerate(folders)
        )

    def _remove_delivered(self, folder: Path, oldest: float) -> bool:
        """Remove the stream unless it has an undelivered line or a recent segment.

        A recent one was written after `oldest`.
        """

        def is_disposable() -> bool:
            return all(
                not found.bytes or (found.is_acked and found.written_at <= oldest) for found in segments(folder)
            )

        if not is_disposable():
            return False
        removed = self.stream(folder.name).remove(is_disposable)
        with self._mutex:
            if (stream := self._streams.pop(folder.name, None)) is not None:
                stream.close()
        return removed

    def remove_if_empty(self) -> bool:
        """Remove an adopted folder without streams, recent dead letters and processes."""
        oldest = self._clock.now().timestamp() - DEAD_LETTER_SECONDS
        letter = self.dead_letter
        if not self.is_adopted or self.stream_folders() or (letter.exists() and letter.stat().st_mtime > oldest):
            return False
        try:
            fcntl.flock(self._member_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        shutil.rmtree(self.directory)
        self.close()
        return True

    def share_with_group(self, gid: int) -> None:
        """Let processes of the group enter; each reaches streams handed over to it."""
        self._shared_gid = gid
        for folder in (self.directory.parent, self.directory):
            os.chown(folder, -1, gid)
            folder.chmod(0o710)
        os.fchown(self._member_fd, -1, gid)
        os.fchmod(self._member_fd, 0o660)

    def take_back(self) -> None:
        """Take back streams of a run's user; the next run has the same user."""
        for folder in self.stream_folders() if os.geteuid() == 0 else []:
            if folder.stat().st_uid != os.geteuid():
                Stream(folder, self._segment_bytes).hand_over(os.geteuid(), os.getegid())

    def close(self) -> None:
        """Give up ownership and open files. What is on disk stays, for `adopt_orphans`."""
        with self._mutex:
            for stream in self._streams.values():
                stream.close()
            self._streams.clear()
        for fd in (self._member_fd, self._owner_fd):
            if fd is not None and fd >= 0:
                os.close(fd)
        self._member_fd, self._owner_fd = -1, None


def adopt_orphans(root: Path, max_bytes: int = DEFAULT_BYTES, clock: Clock | None = None) -> list[Spool]:
    """Own every spool under `root` whose worker is dead, to deliver its events."""
    found = []
    for directory in sorted(root.glob("worker-*")):
        fd = None if directory.is_symlink() else try_own(directory)
        if fd is not None:
            found.append(Spool(directory, max_bytes, clock, fd))
            found[-1].is_adopted = True
            found[-1].take_back()
    return found


def run_stream(run_id: str, attempt: int) -> str:
    return f"{_RUN}{path_segment(run_id)}-{attempt}"


def pod_stream(pod_id: str) -> str:
    return f"pod-{path_segment(pod_id)}"


def stream_owner(name: str, lines: Iterable[bytes]) -> AttemptClaim | None:
    """The attempt whose events a stream holds; None for a stream of the worker itself.

    The name decides, never the lines: code of the run can write those. A long run id is in the name as a hash
    only, so the lines say which id it is, and the name must agree. A name that no worker gives stands for itself,
    so that its lines belong to no attempt that exists.
    """
    if not name.startswith(_RUN):
        return None
    segment, _, attempt = name.removeprefix(_RUN).rpartition("-")
    if not (segment and attempt.isascii() and attempt.isdigit() and 0 < len(attempt) < 10 and int(attempt)):
        return AttemptClaim(name, 1)
    run_id = identifier_of(segment)
    if run_id is None:
        run_id = next((found for found in map(_run_of, lines) if path_segment(found) == segment), name)
    return AttemptClaim(run_id, int(attempt))


def _last_write(folder: Path) -> float:
    """When the stream's header was written last; 0 where it has none."""
    try:
        return (folder / "head").stat().st_mtime
    except OSError:
        return 0.0


def _run_of(line: bytes) -> str:
    try:
        return msgspec.json.decode(line, type=_Addressed).subject.removeprefix("run/")
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""
