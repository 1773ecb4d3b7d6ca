"""The durable append: one folder per (run, attempt), shared by processes.

Any thread of any process that shares it writes.

Two lanes of append-only segments (`facts`, `samples`) and a small header that holds the last `seq` and the
committed length of each lane, all moved under one flock. A line is in the kernel before `append` returns, so
it survives SIGKILL at any instruction. It is not synced, so it may not survive a power cut. The lock is waited
for at most a second: behind a frozen process the line goes to an overflow file of this process, without seq.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from time import monotonic

import msgspec

from pod_worker.outbox.segment_files import (
    FACTS,
    LANES,
    OVERFLOW,
    SAMPLES,
    lane_of,
    number_of,
    open_segment,
    segment_entries,
    segment_name,
)

LOCK_SECONDS = 1.0
_LOCK_MEMORY_SECONDS = 5.0  # after one wait without success, how long the next emits do not wait at all
_LINK_CHECK_SECONDS = 1.0  # how often an open header is checked for having been unlinked
_SEQ_LIMIT = 1 << 62  # a larger one is damage
_HEAD = struct.Struct("<8s5Q")  # magic, last seq, then (segment, committed bytes) of facts and of samples
_MAGIC = b"spool-v1"
_REMOVED_MAGIC = b"removed!"  # written before a pruned folder is unlinked: its open streams then reopen
_START = (_MAGIC, 0, 1, 0, 1, 0)
_Head = tuple[bytes, int, int, int, int, int]
Write = Callable[[int, bytes], int]


class _Numbered(msgspec.Struct):
    seq: int = 0


def read_head(directory: Path) -> _Head:
    """The header without the lock, for readers that need the closed segments only."""
    try:
        with open_segment(directory / "head") as file:
            return _unpacked(file.read(_HEAD.size))
    except FileNotFoundError:
        return _START


class Stream:
    _head_fd: int
    _overflow_fd: int
    _lane_fds: list[int]
    _lane_segments: list[int]

    def __init__(self, directory: Path, segment_bytes: int, write: Write = os.write) -> None:
        self.directory = directory
        self._segment_bytes = segment_bytes
        self._write = write
        self._skip_lock_until = self._check_links_at = 0.0
        self._reset_descriptors()

    def append(self, lane: int, before: bytes, after: bytes, numbered: bool) -> bool:
        """Write `before`, the next seq and `after` as one line; True if a segment closed.

        The seq only where `numbered`.

        Raises OSError (ENOSPC and similar) having recorded nothing.
        """
        if os.getpid() != self._pid:
            self._reset_descriptors()  # a forked child shares its parent's lock and needs one of its own
        if not self._mutex.acquire(timeout=LOCK_SECONDS):
            return self._append_overflow(before + after)
        try:
            head = self._lock()
            if head is None:
                return self._append_overflow(before + after)
            try:
                return self._append_locked(head, lane, before, after, numbered)
            except (FileNotFoundError, struct.error):
                pass  # another program removed the folder or damaged the header
            finally:
                fcntl.flock(self._head_fd, fcntl.LOCK_UN)
            return self._append_after_rebuild(lane, before, after, numbered)
        finally:
            self._mutex.release()

    def close_segments(self) -> None:
        """End both current segments, so that their room can be freed; skipped if busy."""
        with self._mutex:
            if self._lock() is not None:
                try:
                    _, seq, facts, facts_end, samples, samples_end = self._recover()
                    self._save((_MAGIC, seq, facts + (facts_end > 0), 0, samples + (samples_end > 0), 0))
                finally:
                    fcntl.flock(self._head_fd, fcntl.LOCK_UN)

    def remove(self, is_disposable: Callable[[], bool]) -> bool:
        """Unlink the whole folder if `is_disposable` still says so under the lock."""
        with self._mutex:
            if self._lock() is None:
                return False
            try:
                self._recover()
                if not is_disposable():
                    return False
                os.pwrite(self._head_fd, _HEAD.pack(_REMOVED_MAGIC, 0, 0, 0, 0, 0), 0)
                for path in self.directory.iterdir():
                    path.unlink(missing_ok=True)
                self.directory.rmdir()
                return True
            finally:
                fcntl.flock(self._head_fd, fcntl.LOCK_UN)
                self._close()

    def close(self) -> None:
        """Release the descriptors. A later append opens them again."""
        with self._mutex:
            self._close()

    def _append_after_rebuild(self, lane: int, before: bytes, after: bytes, numbered: bool) -> bool:
        self._close()
        if self._lock() is None:
            return self._append_overflow(before + after)
        try:
            return self._append_locked(self._rebuild_head(seq=0), lane, before, after, numbered)
        finally:
            fcntl.flock(self._head_fd, fcntl.LOCK_UN)

    # -- under the lock ------------------------------------------------------------------------------------

    def _append_locked(self, head: _Head, lane: int, before: bytes, after: bytes, numbered: bool) -> bool:
        if not self._is_consistent(head):
            head = self._recover()
        _, seq, facts, facts_end, samples, samples_end = head
        if numbered:
            seq += 1
            line = b'%b"seq":%d,%b' % (before, seq, after)
        else:
            line = before + after
        fd = self._lane_fds[lane]
        written = self._write(fd, line)
        if written != len(line):  # the next emit cuts the torn line off, as after a crash
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.directory))
        closed = False
        if lane == FACTS:
            facts_end += written
            if facts_end >= self._segment_bytes:
                closed, facts, facts_end = True, facts + 1, 0
        else:
            samples_end += written
            if samples_end >= self._segment_bytes:
                closed, samples, samples_end = True, samples + 1, 0
        os.pwrite(self._head_fd, _HEAD.pack(_MAGIC, seq, facts, facts_end, samples, samples_end), 0)
        return closed

    def _is_consistent(self, head: _Head) -> bool:
        """Whether no process died between a line and the header.

        Then the open segments are the current ones.
        """
        return (
            head[0] == _MAGIC
            and head[2] == self._lane_segments[FACTS]
            and head[4] == self._lane_segments[SAMPLES]
            and os.lseek(self._lane_fds[FACTS], 0, os.SEEK_END) == head[3]
            and os.lseek(self._lane_fds[SAMPLES], 0, os.SEEK_END) == head[5]
        )

    def _recover(self) -> _Head:
        """Open the current segments and count in what a dead process wrote there."""
        head = _unpacked(os.pread(self._head_fd, _HEAD.size, 0))
        if head[0] != _MAGIC:
            head = self._rebuild_head(seq=0)
        _, seq, *lanes = head
        for lane in (FACTS, SAMPLES):
            self._open_segment(lane, lanes[2 * lane])
            committed = lanes[2 * lane + 1]
            if os.lseek(self._lane_fds[lane], 0, os.SEEK_END) < committed:  # only a power cut takes lines away
                return self._rebuild_head(seq)
            end, last = _truncate_torn_line(self._lane_fds[lane], committed)
            lanes[2 * lane + 1], seq = end, max(seq, last)
        recovered = (_MAGIC, seq, lanes[0], lanes[1], lanes[2], lanes[3])
        self._save(recovered)
        return recovered

    def _rebuild_head(self, seq: int) -> _Head:
        """The header from the segments alone: for a new folder, and after a power cut."""
        state: list[int] = []
        for lane in (FACTS, SAMPLES):
            numbers = [1]
            for entry in segment_entries(self.directory):
                if lane_of(entry.name) != LANES[lane]:
                    continue
                numbers.append(number_of(entry.name))
                fd = os.open(entry.path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    seq = max(seq, _truncate_torn_line(fd, 0)[1])
                finally:
                    os.close(fd)
            self._open_segment(lane, max(numbers))
            state += [max(numbers), os.lseek(self._lane_fds[lane], 0, os.SEEK_END)]
        head = (_MAGIC, seq, state[0], state[1], state[2], state[3])
        self._save(head)
        return head

    def _save(self, head: _Head) -> None:
        os.pwrite(self._head_fd, _HEAD.pack(*head), 0)

    def _open_segment(self, lane: int, number: int) -> None:
        if self._lane_segments[lane] == number:
            return
        path = self.directory / segment_name(lane, number)
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self._give_to_folders_owner(fd)
        if self._lane_fds[lane] >= 0:
            os.close(self._lane_fds[lane])
        self._lane_fds[lane], self._lane_segments[lane] = fd, number

    # -- the lock ------------------------------------------------------------------------------------------

    def _lock(self) -> _Head | None:
        """Take the flock across processes and read the header.

        None when another process holds it for too long.
        """
        while True:
            if self._head_fd < 0:
                self._open_head()
            if not self._wait_for_lock():
                return None
            head = _unpacked(os.pread(self._head_fd, _HEAD.size, 0))
            if head[0] != _REMOVED_MAGIC and (monotonic() < self._check_links_at or self._is_linked()):
                return head
            fcntl.flock(self._head_fd, fcntl.LOCK_UN)
            self._close()

    def _is_linked(self) -> bool:
        """Whether the open header still has a name.

        Asked once a second, because it costs a system call.
        """
        self._check_links_at = monotonic() + _LINK_CHECK_SECONDS
        return os.fstat(self._head_fd).st_nlink > 0

    def _wait_for_lock(self) -> bool:
        try:
            fcntl.flock(self._head_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            pass
        started = monotonic()
        pause = 0.00002
        while (now := monotonic()) < started + LOCK_SECONDS and now >= self._skip_lock_until:
            time.sleep(pause)
            pause = min(pause * 1.5, 0.002)
            try:
                fcntl.flock(self._head_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                continue
        if now >= self._skip_lock_until:
            self._skip_lock_until = now + _LOCK_MEMORY_SECONDS
        return False

    def _open_head(self) -> None:
        self.directory.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.directory.mkdir(exist_ok=True, mode=0o700)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._head_fd = os.open(self.directory / "head", flags, 0o600)
        self._give_to_folders_owner(self._head_fd)
        self._check_links_at = monotonic() + _LINK_CHECK_SECONDS

    def hand_over(self, uid: int, gid: int) -> None:
        """Give the stream to a user (root only).

        What we create in it later belongs to that user too.
        """
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.scandir(self.directory) as entries:
            for entry in entries:
                os.chown(entry.path, uid, gid, follow_symlinks=False)
        os.chown(self.directory, uid, gid, follow_symlinks=False)

    def _give_to_folders_owner(self, fd: int) -> None:
        if os.geteuid() == 0 and (owner := os.stat(self.directory)).st_uid != 0:
            os.fchown(fd, owner.st_uid, owner.st_gid)

    def _append_overflow(self, line: bytes) -> bool:
        """Write a file that only this process writes: no lock, no recovery."""
        with self._overflow_mutex:
            if self._overflow_fd < 0:
                name = f"{OVERFLOW}.{os.getpid()}-{time.time_ns()}.ndjson"
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                self._overflow_fd = os.open(self.directory / name, flags, 0o600)
            end = os.lseek(self._overflow_fd, 0, os.SEEK_END)
            if self._write(self._overflow_fd, line) != len(line):
                os.ftruncate(self._overflow_fd, end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.directory))
        return False

    def _reset_descriptors(self) -> None:
        """Start without open files; a parent process keeps its own."""
        self._pid = os.getpid()
        self._mutex = threading.Lock()
        self._overflow_mutex = threading.Lock()
        self._head_fd = -1
        self._overflow_fd = -1
        self._lane_fds = [-1, -1]
        self._lane_segments = [0, 0]

    def _close(self) -> None:
        for fd in (*self._lane_fds, self._head_fd, self._overflow_fd):
            if fd >= 0:
                os.close(fd)
        self._head_fd = self._overflow_fd = -1
        self._lane_fds = [-1, -1]
        self._lane_segments = [0, 0]


def _unpacked(data: bytes) -> _Head:
    if len(data) < _HEAD.size:
        return (b"", 0, 0, 0, 0, 0)
    magic, seq, facts, facts_end, samples, samples_end = _HEAD.unpack_from(data)
    return (magic, seq, facts, facts_end, samples, samples_end)


def _truncate_torn_line(fd: int, start: int) -> tuple[int, int]:
    """(end, last seq) of the whole lines from `start`.

    A torn last line, never acknowledged, is cut off.
    """
    size = os.lseek(fd, 0, os.SEEK_END)
    if size <= start:
        return size, 0
    tail = os.pread(fd, size - start, start)
    whole = tail.rfind(b"\n") + 1
    if whole < len(tail):
        os.ftruncate(fd, start + whole)
    return start + whole, max((_seq_of(line) for line in tail[:whole].splitlines()), default=0)


def _seq_of(line: bytes) -> int:
    try:
        seq = msgspec.json.decode(line, type=_Numbered).seq
    except msgspec.MsgspecError:  # a block of zeros after a power cut
        return 0
    return seq if 0 < seq < _SEQ_LIMIT else 0
