"""The thread that applies an attempt's fenced writes, in order.

Its supervisor stays free to hear a cancel.

A write that MongoDB does not answer is tried again for as long as it may be. One that MongoDB refuses for good is
reported with its error. The supervisor learns every result from its inbox.
"""

from __future__ import annotations

import logging
import queue as queues
import time
from collections.abc import Callable
from dataclasses import dataclass

import pymongo
from pymongo.errors import PyMongoError

from pod_worker.process.supervised_thread import SupervisedThread
from pod_worker.store.errors import describe_error, is_permanent_error

log = logging.getLogger(__name__)
TRY_SECONDS = 5.0
RETRY_SECONDS = 1.0
PENDING_LIMIT = 8  # with more pending, the thread that reads the child's messages waits; never the supervisor
POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class FencedWrite:
    """One write. `may_retry` is asked after each try that MongoDB did not answer."""

    name: str
    write: Callable[[], object]
    may_retry: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class FencedWriteResult:
    """The result of a write.

    `error` None: answered, with `value`. `is_permanent`: the same write would be refused again.
    """

    name: str
    value: object = None
    error: Exception | None = None
    is_permanent: bool = False


class FencedWriter:
    def __init__(self, on_result: Callable[[FencedWriteResult], object]) -> None:
        self._on_result = on_result
        self._pending: queues.SimpleQueue[tuple[int, FencedWrite]] = queues.SimpleQueue()
        self._epoch = 0  # of submissions; `abandon` begins a new one
        self._thread = SupervisedThread("fenced writes", self._step)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Abandon what is pending. Returns without waiting for a write in progress."""
        self._thread.stop(timeout=0)

    def submit(self, write: FencedWrite) -> None:
        """Apply it after those submitted before. Never blocks."""
        self._pending.put((self._epoch, write))

    def abandon(self) -> None:
        """Forget what is pending; the write in progress is not tried again."""
        self._epoch += 1

    def wait_for_room(self) -> bool:
        """Block while many writes are pending; False when the writer was stopped."""
        while self._pending.qsize() >= PENDING_LIMIT:
            if self._thread.pause(POLL_SECONDS):
                return False
        return not self._thread.is_stopping

    def _step(self) -> float:
        try:
            epoch, write = self._pending.get(timeout=POLL_SECONDS)
        except queues.Empty:
            return 0.0
        if epoch == self._epoch:
            self._on_result(self._apply(epoch, write))
        return 0.0

    def _apply(self, epoch: int, write: FencedWrite) -> FencedWriteResult:
        while True:
            try:
                with pymongo.timeout(TRY_SECONDS):
                    return FencedWriteResult(write.name, write.write())
            except Exception as error:
                if is_permanent_error(error) or not isinstance(error, PyMongoError):
                    return FencedWriteResult(write.name, error=error, is_permanent=True)
                log.warning("retrying the write %r: %s", write.name, describe_error(error))
                if not write.may_retry() or self._is_abandoned(epoch, RETRY_SECONDS):
                    return FencedWriteResult(write.name, error=error)

    def _is_abandoned(self, epoch: int, seconds: float) -> bool:
        """Pause for `seconds`; True as soon as writes of that epoch are over.

        It was abandoned, or the writer was stopped.
        """
        end = time.monotonic() + seconds
        while epoch == self._epoch and (left := end - time.monotonic()) > 0:
            if self._thread.pause(min(left, POLL_SECONDS)):
                return True
        return epoch != self._epoch
