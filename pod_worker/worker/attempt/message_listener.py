"""The thread that reads the child's messages.

Writes go to the fenced writer, the outcome to the supervisor.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from pod_worker.core.credentials.secret import Redactor
from pod_worker.core.lease import Fence
from pod_worker.core.outcome import Outcome
from pod_worker.core.run import Checkpoint
from pod_worker.store.queue.run_queue import RunQueue
from pod_worker.worker import protocol
from pod_worker.worker.attempt.fenced_writer import FencedWrite, FencedWriter
from pod_worker.worker.isolation.guarded_child import GuardedChild

log = logging.getLogger(__name__)
NOISE_LINES_LOGGED = 5


class MessageListener:
    def __init__(
        self,
        child: GuardedChild,
        queue: RunQueue,
        fence: Fence,
        writer: FencedWriter,
        may_retry: Callable[[], bool],
        on_outcome: Callable[[Outcome], object],
        on_invalid: Callable[[str], object],
        redactor: Redactor,
    ) -> None:
        self._child = child
        self._queue = queue
        self._fence = fence
        self._writer = writer
        self._may_retry = may_retry
        self._on_outcome = on_outcome
        self._on_invalid = on_invalid
        self._redactor = redactor
        self._noise_lines = 0

    def run(self) -> None:
        """Blocks until the pipe is closed, a message is invalid, or the writer stopped."""
        try:
            for message in self._child.messages(self._record_noise):
                if not self._writer.wait_for_room():
                    break
                self._handle(message)
        except protocol.MessageError as error:
            self._on_invalid(str(error))
        if self._noise_lines > NOISE_LINES_LOGGED:
            log.warning("the child sent %d lines that are no message", self._noise_lines)

    def _handle(self, message: protocol.Message) -> None:
        match message:
            case protocol.ChildReady():
                self._submit("start", lambda: self._queue.start(self._fence))
            case protocol.CheckpointSaved(stage=stage, done=done, state=state):
                # Readers of the run's document see it.
                saved = Checkpoint(stage, done, self._redactor.redact_json(state), self._fence.attempt)
                self._submit(f"checkpoint of {stage}", lambda: self._queue.checkpoint(self._fence, saved))
            case protocol.OutcomeReported():
                if (outcome := message.outcome()) is not None:
                    self._on_outcome(outcome)

    def _submit(self, name: str, write: Callable[[], bool]) -> None:
        self._writer.submit(FencedWrite(name, write, self._may_retry))

    def _record_noise(self, message: str) -> None:
        self._noise_lines += 1
        if self._noise_lines <= NOISE_LINES_LOGGED:
            log.warning("%s", message)
