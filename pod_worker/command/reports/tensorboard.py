"""Follows the TensorBoard event files of a job: scalars become metrics.

Only what is written after `start` is read: files that came with the workdir, or that an earlier attempt left,
belong to other runs. The files are input from a program of a user, so every size and count has a limit.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from pod_worker.command.reports.event_folders import FoundFile, find_event_files
from pod_worker.command.reports.event_line import EventLineError, checked_metric
from pod_worker.command.reports.rate_limit import MetricLimit
from pod_worker.command.reports.record_file import DamagedLengthError, EventRecord, read_record
from pod_worker.command.reports.summary_event import EventFormatError, read_scalars
from pod_worker.core.stage import Context
from pod_worker.process.supervised_thread import SupervisedThread

POLL_SECONDS = 1.0
CLOSE_SECONDS = 30.0
SEARCH_SHARE = 50  # a pause is this many times longer than the search before it
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class _FollowedFile:
    """How far a file was read; `prefix` stands before the names of its scalars."""

    def __init__(self, found: FoundFile, offset: int, prefix: str) -> None:
        self.inode, self.offset, self.prefix = found.inode, offset, prefix
        self.is_damaged = False  # the record at `offset` cannot be read


class TensorBoardReader:
    """One thread reads what was appended; `close` reads the rest.

    A scalar has the name of its tag. The folder of the first file of the job is the main one; scalars of another
    folder have its path, seen from the main one, before the tag: `validation/loss`.

    `expected_in` is the folder that the job names; a warning says when no file was written.
    """

    def __init__(self, folders: Sequence[Path], context: Context, expected_in: str = "") -> None:
        self._folders, self._context, self._expected_in = folders, context, expected_in
        self._files: dict[str, _FollowedFile] = {}
        self._main_folder: str | None = None
        self._metrics = MetricLimit(context.emit)
        self._damaged = self._refused = 0
        self._first_damaged = self._first_refused = ""
        self._has_warned_of_limit = False
        self._search_seconds = 0.0
        self._ends_at: float | None = None  # of the last reading
        self._thread = SupervisedThread("tensorboard", self._step, stuck_seconds=None)

    def __enter__(self) -> TensorBoardReader:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def start(self) -> None:
        for found in self._find():
            self._files[found.path] = _FollowedFile(found, found.size, "")
        self._thread.start()

    def close(self) -> None:
        """End the thread, then read to the end of the files."""
        if not self._thread.stop(CLOSE_SECONDS):
            return  # the thread still reads
        self._ends_at = time.monotonic() + CLOSE_SECONDS
        self.poll()
        self._metrics.flush()
        if self._is_over():
            self._warn(f"the rest of the TensorBoard files was not read within {CLOSE_SECONDS:.0f} s; write less")
        self._report()

    def _report(self) -> None:
        if self._expected_in and self._main_folder is None:
            self._warn(f"metrics.tensorboard: the command wrote no event file below {self._expected_in!r}")
        if count := self._metrics.thinned:
            self._warn(
                f"{count} TensorBoard values were thinned: a series keeps its newest value; write less often"
            )
        if self._refused:
            self._warn(f"{self._refused} TensorBoard values were not recorded; the first: {self._first_refused}")
        for path, file in self._files.items():
            if file.is_damaged:
                self._count_damage(path, file)
        if self._damaged:
            self._warn(
                f"{self._damaged} damaged records of TensorBoard files were skipped; "
                f"the first: {self._first_damaged}"
            )

    def _step(self) -> float:
        self.poll()
        return max(POLL_SECONDS, self._search_seconds * SEARCH_SHARE)

    def _is_over(self) -> bool:
        """Whether to stop reading: `close` waits for the thread, or its own time is over."""
        if self._ends_at is None:
            return self._thread.is_stopping
        return time.monotonic() > self._ends_at

    def poll(self) -> None:
        """Read all that was appended since the last call."""
        files = self._find()
        known, self._files = self._files, {}
        for found in files:
            file = known.get(found.path)
            if file is None or file.inode != found.inode or found.size < file.offset:
                file = _FollowedFile(found, 0, self._prefix(found.folder))
            self._files[found.path] = file
        for found in files:
            file = self._files[found.path]
            if found.size > file.offset:
                self._read(found, file)
        self._metrics.emit_due()

    def _find(self) -> list[FoundFile]:
        began = time.monotonic()
        files, is_complete = find_event_files(self._context.work_dir, self._folders)
        self._search_seconds = time.monotonic() - began
        if not is_complete and not self._has_warned_of_limit:
            self._has_warned_of_limit = True
            self._warn(
                "there are more files than a search for TensorBoard files looks at; write them to a folder of "
                "their own and name it: metrics: {tensorboard: FOLDER}"
            )
        return files

    def _prefix(self, folder: str) -> str:
        if self._main_folder is None:
            self._main_folder = folder
        if folder == self._main_folder:
            return ""
        parts = os.path.relpath(folder, self._main_folder).split(os.sep)
        return "/".join([each for each in parts if each != os.pardir] or [os.path.basename(folder)]) + "/"

    def _read(self, found: FoundFile, file: _FollowedFile) -> None:
        """Up to the size that was found, so that a flood cannot keep `close` from ending."""
        try:
            fd = os.open(found.path, _FLAGS)
        except OSError:
            return  # deleted meanwhile
        try:
            file.is_damaged = False
            while not self._is_over() and (record := read_record(fd, file.offset, found.size)):
                if not self._take(record, file.prefix):
                    if record.end >= found.size:
                        file.is_damaged = True  # it may still be being written
                        return
                    self._count_damage(found.path, file)
                file.offset = record.end
        except DamagedLengthError:
            file.is_damaged = True
        finally:
            os.close(fd)

    def _take(self, record: EventRecord, prefix: str) -> bool:
        """Emit the scalars of a record; False when it is damaged."""
        try:
            scalars = read_scalars(record.data)
        except EventFormatError:
            return False
        if scalars and not record.is_intact():
            return False
        for scalar in scalars:
            fields = {"metric": prefix + scalar.tag, "value": scalar.value, "step": scalar.step}
            try:
                self._metrics.add(checked_metric(fields, self._context.stage))
            except EventLineError as error:
                self._refused += 1
                self._first_refused = self._first_refused or f"step {scalar.step}: {error}"
        return True

    def _count_damage(self, path: str, file: _FollowedFile) -> None:
        self._damaged += 1
        self._first_damaged = self._first_damaged or f"{path} at byte {file.offset}"

    def _warn(self, message: str) -> None:
        self._context.log(message, "warning")
