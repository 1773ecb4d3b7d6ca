"""The thread that brings spooled events to ingest and marks them delivered after ingest has said so.

At least once: an event leaves the spool's backlog only when an answer acknowledged or refused that very line,
so a crash sends again and ingest absorbs it. It never blocks `emit`, never discards on an error, and keeps
lines that ingest refuses for good in the spool's dead-letter file.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from pod_worker.core.clock import Clock, SystemClock
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
from pod_worker.outbox.retry_backoff import RetryBackoff
from pod_worker.outbox.spool import Spool

CATCH_UP_LINES = 500
_BATCH_BYTES = 4 * 1024 * 1024  # decoded; ingest takes 8 MiB
_WARN_AGAIN_SECONDS = 600.0
_FAILURES_TO_WARN = 3
_TEND_SECONDS = 30.0
KEEP_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class ShipperStats:
    acknowledged: int = 0  # lines that ingest took (duplicates and fenced ones included)
    duplicates: int = 0
    fenced: int = 0
    refused: int = 0  # lines in a dead-letter file
    failures: int = 0  # requests that brought nothing
    requests: int = 0
    dropped: int = 0  # samples this process could not write for want of disk
    pending_bytes: int = 0
    last_trouble: str | None = None  # None as soon as something is acknowledged


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
    ) -> None:
        self._clock = clock or SystemClock()
        self._client = IngestClient(url, token, self._clock)
        self._spools = list(spools)
        self._batch_events, self._batch_seconds = batch_events, batch_seconds
        self._tick_seconds = min(0.25, batch_seconds / 4)
        self._patience = RetryBackoff(rng or random.Random())
        self._log = log
        self._keep_seconds = keep_seconds
        self._changed = threading.Condition()
        self._backlogs: dict[str, Backlog] = {}
        self._stats = ShipperStats()
        self._warned: dict[str, float] = {}
        self._line_limit = CATCH_UP_LINES
        self._tended_at = 0.0
        self._is_stopping = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="shipper", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 35.0) -> None:
        """End the thread after the request in flight. Flushes nothing: what is left stays on disk."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout)
        self._client.close()

    def add(self, spool: Spool) -> None:
        with self._changed:
            self._spools.append(spool)

    def flush(self, timeout: float) -> bool:
        """Wait until all that was emitted before the call is acknowledged or refused; False after `timeout`
        seconds. Events put off by ingest and a wait that ingest asked for (Retry-After) count as not done."""
        deadline = time.monotonic() + timeout
        with self._changed:
            folders = [folder for spool in self._spools for folder in spool.stream_folders()]
            goals = {str(folder): Backlog(folder).complete_sizes() for folder in folders}
            self._patience.begin_flush()
            self._changed.notify_all()
            try:
                while not self._is_reached(goals):
                    left = deadline - time.monotonic()
                    if left <= 0 or self._is_stopping:
                        return False
                    self._changed.wait(left)
                return True
            finally:
                self._patience.flushing -= 1

    def stats(self) -> ShipperStats:
        with self._changed:
            pending = sum(backlog.pending_bytes() for backlog in self._backlogs.values())
            dropped = sum(spool.dropped for spool in self._spools)
            return replace(self._stats, pending_bytes=pending, dropped=dropped)

    # -- the thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            try:
                pause = self._ship_once()
            except OSError as error:  # the spool's own disk: keep the thread, the events are where they were
                pause = self._back_off(Unavailable(f"the spool cannot be read: {error}"))
            with self._changed:
                if self._is_stopping:
                    return
                if pause > 0:
                    self._changed.wait(pause)

    def _ship_once(self) -> float:
        """One pass over all streams; seconds to wait before the next."""
        now = self._clock.monotonic()
        if now < self._patience.retry_at:
            return self._patience.retry_at - now
        if now >= self._tended_at + _TEND_SECONDS:
            self._housekeep(now)
        has_sent = False
        for backlog in self._found_backlogs():
            lines = self._due(backlog, now)
            if not lines:
                continue
            trouble = self._send_lines(backlog, lines)
            if trouble is not None:
                return self._back_off(trouble)
            has_sent = True
            if self._is_stopping:
                break
        return 0.0 if has_sent else self._tick_seconds

    def _found_backlogs(self) -> list[Backlog]:
        with self._changed:
            found: dict[str, Backlog] = {}
            for spool in self._spools:
                for name in spool.stream_names():
                    folder = f"{spool.directory}/{name}"
                    found[folder] = self._backlogs.get(folder) or Backlog(spool.directory / name)
            self._backlogs = found
            return list(found.values())

    def _due(self, backlog: Backlog, now: float) -> list[SpooledLine]:
        """The next batch of a stream, if it is large or old enough to go."""
        if backlog.is_quiet(now) and not self._patience.flushing:
            return []
        with_deferred = backlog.has_held() and now >= self._patience.retry_deferred_at
        lines = backlog.next_lines(self._line_limit, _BATCH_BYTES, with_deferred)
        if not lines:
            backlog.waiting_since = None
            backlog.record_empty(now)
            return []
        if backlog.waiting_since is None:
            backlog.waiting_since = now
        is_full = len(lines) >= min(self._batch_events, self._line_limit)
        is_old = now >= backlog.waiting_since + self._batch_seconds
        return lines if is_full or is_old or with_deferred or self._patience.flushing else []

    def _send_lines(self, backlog: Backlog, lines: list[SpooledLine]) -> SendFailure | None:
        outcome = send_batch(self._send, lines)
        if outcome is None:
            self._line_limit = SUSPECT_LINES  # look for the poison in a small batch, next round
            return None
        if outcome.accepted or outcome.refused or outcome.trouble is None:
            self._record_result(backlog, lines, outcome)
        return outcome.trouble

    def _send(self, lines: Sequence[SpooledLine]) -> SendResult:
        answer = self._client.send([line.data for line in lines])
        with self._changed:
            self._stats = replace(self._stats, requests=self._stats.requests + 1)
            if isinstance(answer, BatchAccepted):
                self._stats = replace(
                    self._stats,
                    duplicates=self._stats.duplicates + answer.duplicates,
                    fenced=self._stats.fenced + answer.fenced,
                )
        return answer

    def _record_result(self, backlog: Backlog, lines: list[SpooledLine], outcome: BatchResult) -> None:
        kept = self._store_dead_letters(backlog.directory.parent, outcome.refused)
        deferred = outcome.deferred + kept
        with self._changed:
            backlog.acknowledge(lines, deferred)
            self._stats = replace(
                self._stats,
                acknowledged=self._stats.acknowledged + len(outcome.accepted),
                refused=self._stats.refused + len(outcome.refused) - len(kept),
                last_trouble=None if outcome.accepted else self._stats.last_trouble,
            )
            backlog.waiting_since = None
            if outcome.accepted:
                self._patience.failures = 0
                self._warned.clear()
                self._line_limit = min(CATCH_UP_LINES, self._line_limit * 2)
            if deferred:
                self._patience.record_deferral(self._clock.monotonic())
            elif not backlog.has_held():
                self._patience.deferrals = 0
            self._changed.notify_all()

    def _store_dead_letters(
        self, spool: Path, refused: Collection[tuple[SpooledLine, LineRejection]]
    ) -> list[SpooledLine]:
        """Refused lines go to the dead-letter file, whole, with the reason. Returns them if the disk is full."""
        if not refused:
            return []
        owner = next(found for found in self._spools if found.directory == spool)
        records = [
            msgspec.json.encode(
                {
                    "refused_at": self._clock.now(),
                    "code": refusal.code,
                    "error": refusal.error,
                    "event": line.data.decode("utf-8", "replace").rstrip("\n"),
                }
            )
            for line, refusal in refused
        ]
        try:
            owner.append_dead_letter(b"\n".join(records) + b"\n")
        except OSError:
            return [line for line, _ in refused]
        _, first = next(iter(refused))
        self._log(
            f"ingest refused {len(refused)} events ({first.code}: {first.error}); "
            f"they are kept in {owner.dead_letter}"
        )
        return []

    # -- waiting ---------------------------------------------------------------------------------------------

    def _back_off(self, trouble: SendFailure) -> float:
        """Note the trouble, say it where a person can help, and return how long to wait."""
        with self._changed:
            self._stats = replace(self._stats, failures=self._stats.failures + 1, last_trouble=trouble.reason)
            pause = self._patience.record_failure(trouble, self._clock.monotonic())
            self._changed.notify_all()
        if isinstance(trouble, Misconfigured) or self._patience.failures >= _FAILURES_TO_WARN:
            self._warn(trouble.reason)
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
        """Now and then: the reserve, cursors that a full disk refused, delivered streams that are old."""
        self._tended_at = now
        with self._changed:
            for backlog in self._backlogs.values():
                backlog.save()
            for spool in list(self._spools):
                spool.fill_reserve()
                spool.prune(self._keep_seconds)
                if spool.remove_if_empty():
                    self._spools.remove(spool)
