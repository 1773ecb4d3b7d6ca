"""The thread that sends spooled events and marks what ingest acknowledged.

At least once: an event leaves the backlog only when an answer accepted or rejected that very line. A crash sends
again, and ingest absorbs the duplicate. The shipper never blocks `emit` and never discards on an error. It keeps
lines that ingest rejects for good in the spool's dead-letter file. No error of one stream stops the others, and
no error ends the thread.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import msgspec

from pod_worker.core.clock import Clock, SystemClock
from pod_worker.core.credentials import attempt_token
from pod_worker.core.credentials.secret import Redactor
from pod_worker.outbox.backlog import Backlog, SpooledLine
from pod_worker.outbox.batch_send import SUSPECT_LINES, BatchResult, SendFailure, send_batch
from pod_worker.outbox.ingest_client import (
    BatchAccepted,
    IngestClient,
    LineRejection,
    Misconfigured,
    SendResult,
    Unavailable,
)
from pod_worker.outbox.redaction import redact_line
from pod_worker.outbox.retry_backoff import RetryBackoff
from pod_worker.outbox.spool import Spool, SpoolInUseError, stream_owner
from pod_worker.process.supervised_thread import SupervisedThread

CATCH_UP_LINES = 500
_BATCH_BYTES = 4 * 1024 * 1024  # decoded; ingest takes 8 MiB
_WARN_AGAIN_SECONDS = 600.0
_FAILURES_TO_WARN = 3
_HOUSEKEEPING_SECONDS = 30.0
_BROKEN_STREAM_SECONDS = 5.0  # how long a stream that cannot be read is left alone
KEEP_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class ShipperStats:
    acknowledged: int = 0  # lines that ingest accepted (duplicates and fenced ones included)
    duplicates: int = 0
    fenced: int = 0
    rejected: int = 0  # lines in a dead-letter file
    failures: int = 0  # requests that acknowledged nothing, and errors of the spool
    requests: int = 0
    dropped: int = 0  # samples that this process could not write because the disk was full
    pending_bytes: int = 0
    last_failure: str | None = None  # None as soon as something is acknowledged


class Shipper:
    """Ships `spools` to `url`. All methods may be called from any thread."""

    def __init__(
        self,
        spools: Sequence[Spool],
        url: str,
        token: str | None,
        batch_events: int = 50,
        batch_seconds: float = 1.0,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        log: Callable[[str], None] = lambda message: None,
        keep_seconds: float = KEEP_SECONDS,
        redactor: Redactor | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._client = IngestClient(url, self._clock)
        self._token = token
        self._spools = list(spools)
        self._batch_events, self._batch_seconds = batch_events, batch_seconds
        self._tick_seconds = min(0.25, batch_seconds / 4)
        self._backoff = RetryBackoff(rng or random.Random())
        self._log = log
        self._keep_seconds = keep_seconds
        self._redactor = redactor or None
        self._changed = threading.Condition()
        self._backlogs: dict[str, Backlog] = {}
        self._stats = ShipperStats()
        self._warned: dict[str, float] = {}  # when each message was last logged
        self._line_limit = CATCH_UP_LINES
        self._housekept_at = 0.0
        self._is_stopping = False
        self._thread = SupervisedThread("shipper", self._step, log=log)

    def start(self) -> None:
        self._thread.start()

    def problem(self) -> str | None:
        """What is wrong with the thread; None while it works.

        A server that is away is in `stats`.
        """
        return self._thread.problem()

    def stop(self, timeout: float = 35.0) -> None:
        """End the thread after the request in flight.

        Does not flush: undelivered events stay on disk.
        """
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        self._thread.stop(timeout)
        self._client.close()

    def add(self, spool: Spool) -> None:
        with self._changed:
            self._spools.append(spool)

    def flush(self, timeout: float) -> bool:
        """Wait until all events emitted before the call are acknowledged or rejected.

        False after `timeout` seconds. Deferred events and a wait that ingest asked for (Retry-After)
        count as not done.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            folders = [folder for spool in self._spools for folder in spool.stream_folders()]
            targets = {str(folder): Backlog(folder).complete_sizes() for folder in folders}
            self._backoff.begin_flush()
            self._thread.wake()
            try:
                while not self._is_reached(targets):
                    left = deadline - time.monotonic()
                    if left <= 0 or self._is_stopping:
                        return False
                    self._changed.wait(left)
                return True
            finally:
                self._backoff.flushing -= 1

    def stats(self) -> ShipperStats:
        with self._changed:
            pending = sum(backlog.pending_bytes() for backlog in self._backlogs.values())
            dropped = sum(spool.dropped for spool in self._spools)
            return replace(self._stats, pending_bytes=pending, dropped=dropped)

    # -- the thread ------------------------------------------------------------------------------------------

    def _step(self) -> float:
        try:
            return self._ship_once()
        except Exception as error:  # counted and backed off like any failure; the events stay where they are
            return self._record_failure(Unavailable(f"the shipper failed: {_summary(error)}"))

    def _ship_once(self) -> float:
        """One pass over all streams; seconds to wait before the next."""
        now = self._clock.monotonic()
        if now < self._backoff.retry_at:
            return self._backoff.retry_at - now
        if now >= self._housekept_at + _HOUSEKEEPING_SECONDS:
            self._housekeep(now)
        has_sent = False
        for backlog in self._found_backlogs():
            try:
                lines = self._due(backlog, now)
            except (OSError, ValueError) as error:
                self._set_aside(backlog, error, now)
                continue
            if not lines:
                continue
            failure = self._send_lines(backlog, lines)
            if failure is not None:
                return self._record_failure(failure)
            has_sent = True
            if self._is_stopping:
                break
        return 0.0 if has_sent else self._tick_seconds

    def _found_backlogs(self) -> list[Backlog]:
        with self._changed:
            found: dict[str, Backlog] = {}
            for spool in self._spools:
                self._restore(spool)
                for name in spool.stream_names():
                    folder = f"{spool.directory}/{name}"
                    found[folder] = self._backlogs.get(folder) or Backlog(spool.directory / name)
            self._backlogs = found
            return list(found.values())

    def _restore(self, spool: Spool) -> None:
        try:
            if spool.restore():
                self._warn(
                    f"another program removed the spool {spool.directory}: undelivered events in it are lost. "
                    "It exists again; exclude it from cleaning jobs."
                )
        except (OSError, SpoolInUseError) as error:
            self._warn(f"the spool {spool.directory} is gone and cannot be created again: {_summary(error)}")

    def _set_aside(self, backlog: Backlog, error: Exception, now: float) -> None:
        """Leave a stream that cannot be read alone for a while; the others go on."""
        backlog.retry_at = now + _BROKEN_STREAM_SECONDS
        reason = f"the events in {backlog.directory} cannot be read: {_summary(error)}"
        with self._changed:
            self._stats = replace(self._stats, failures=self._stats.failures + 1, last_failure=reason)
        self._warn(reason)

    def _due(self, backlog: Backlog, now: float) -> list[SpooledLine]:
        """The next batch of a stream, if it is large or old enough to go."""
        if now < backlog.retry_at or (backlog.is_quiet(now) and not self._backoff.flushing):
            return []
        with_deferred = backlog.has_deferred() and now >= self._backoff.retry_deferred_at
        lines = backlog.next_lines(self._line_limit, _BATCH_BYTES, with_deferred)
        if not lines:
            backlog.waiting_since = None
            backlog.record_empty(now)
            return []
        if backlog.waiting_since is None:
            backlog.waiting_since = now
        is_full = len(lines) >= min(self._batch_events, self._line_limit)
        is_old = now >= backlog.waiting_since + self._batch_seconds
        return lines if is_full or is_old or with_deferred or self._backoff.flushing else []

    def _send_lines(self, backlog: Backlog, lines: list[SpooledLine]) -> SendFailure | None:
        if self._redactor is not None:  # code of the run may have written lines past its emitter
            lines = [replace(line, data=redact_line(self._redactor, line.data)) for line in lines]
        result = send_batch(partial(self._send, self._token_for(backlog, lines)), lines)
        if result is None:
            self._line_limit = SUSPECT_LINES  # look for the poison line in a small batch, next round
            return None
        if result.accepted or result.rejected or result.failure is None:
            self._record_result(backlog, lines, result)
        return result.failure

    def _token_for(self, backlog: Backlog, lines: Sequence[SpooledLine]) -> str | None:
        """The token of the attempt for a run's stream, so that ingest refuses others.

        Code of the run can write into its stream, also in the spool of a worker that has ended.
        """
        owner = stream_owner(backlog.directory.name, (line.data for line in lines))
        if owner is None or self._token is None:
            return self._token
        return attempt_token.mint(self._token, owner.run_id, owner.attempt)

    def _send(self, token: str | None, lines: Sequence[SpooledLine]) -> SendResult:
        answer = self._client.send([line.data for line in lines], token)
        with self._changed:
            self._stats = replace(self._stats, requests=self._stats.requests + 1)
            if isinstance(answer, BatchAccepted):
                self._stats = replace(
                    self._stats,
                    duplicates=self._stats.duplicates + answer.duplicates,
                    fenced=self._stats.fenced + answer.fenced,
                )
        return answer

    def _record_result(self, backlog: Backlog, lines: list[SpooledLine], result: BatchResult) -> None:
        unstored = self._store_dead_letters(backlog.directory.parent, result.rejected)
        deferred = result.deferred + unstored
        with self._changed:
            backlog.acknowledge(lines, deferred)
            self._stats = replace(
                self._stats,
                acknowledged=self._stats.acknowledged + len(result.accepted),
                rejected=self._stats.rejected + len(result.rejected) - len(unstored),
                last_failure=None if result.accepted else self._stats.last_failure,
            )
            backlog.waiting_since = None
            if result.accepted:
                self._backoff.failures = 0
                self._warned.clear()
                self._line_limit = min(CATCH_UP_LINES, self._line_limit * 2)
            if deferred:
                self._backoff.record_deferral(self._clock.monotonic())
            elif not backlog.has_deferred():
                self._backoff.deferrals = 0
            self._changed.notify_all()

    def _store_dead_letters(
        self, spool: Path, rejected: Collection[tuple[SpooledLine, LineRejection]]
    ) -> list[SpooledLine]:
        """Store rejected lines whole, with the reason.

        Returns them if the disk does not take them.
        """
        if not rejected:
            return []
        records = [
            msgspec.json.encode(
                {
                    "refused_at": self._clock.now(),
                    "code": rejection.code,
                    "error": rejection.error,
                    "event": line.data.decode("utf-8", "replace").rstrip("\n"),
                }
            )
            for line, rejection in rejected
        ]
        owner = next((found for found in self._spools if found.directory == spool), None)
        try:
            if owner is None:  # removed just now: the next pass no longer sees its streams
                raise FileNotFoundError(spool)
            owner.append_dead_letter(b"\n".join(records) + b"\n")
        except OSError:
            return [line for line, _ in rejected]
        _, first = next(iter(rejected))
        self._log(
            f"ingest rejected {len(rejected)} events ({first.code}: {first.error}); "
            f"they are kept in {owner.dead_letter}"
        )
        return []

    # -- waiting ---------------------------------------------------------------------------------------------

    def _record_failure(self, failure: SendFailure) -> float:
        """Note the failure, log it where a person can help, and return how long to wait."""
        with self._changed:
            self._stats = replace(self._stats, failures=self._stats.failures + 1, last_failure=failure.reason)
            pause = self._backoff.record_failure(failure, self._clock.monotonic())
            self._changed.notify_all()
        if isinstance(failure, Misconfigured) or self._backoff.failures >= _FAILURES_TO_WARN:
            self._warn(failure.reason)
        return pause

    def _is_reached(self, targets: dict[str, dict[str, int]]) -> bool:
        for folder, sizes in targets.items():
            backlog = self._backlogs.get(folder)
            if backlog is None:
                if any(sizes.values()) and os.path.exists(folder):
                    return False
            elif not backlog.is_acknowledged(sizes):
                return False
        return True

    def _warn(self, message: str) -> None:
        now = self._clock.monotonic()
        if now >= self._warned.get(message, -_WARN_AGAIN_SECONDS) + _WARN_AGAIN_SECONDS:
            self._warned[message] = now
            self._log(message)

    def _housekeep(self, now: float) -> None:
        """Now and then: the reserve, unsaved cursors, delivered streams that are old."""
        self._housekept_at = now
        with self._changed:
            for backlog in self._backlogs.values():
                backlog.save()
            for spool in list(self._spools):
                try:
                    self._housekeep_spool(spool)
                except OSError as error:
                    self._warn(f"the spool {spool.directory} cannot be kept: {_summary(error)}")

    def _housekeep_spool(self, spool: Spool) -> None:
        spool.fill_reserve()
        spool.prune(self._keep_seconds)
        if spool.remove_if_empty():
            self._spools.remove(spool)


def _summary(error: Exception) -> str:
    """The error without its text where that may hold a header or a URL."""
    reason = error.strerror if isinstance(error, OSError) else None
    return f"{type(error).__name__}: {reason}" if reason else type(error).__name__
