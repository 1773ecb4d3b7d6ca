"""The steps that end an attempt: ask the child, SIGTERM, SIGKILL, kill the guard.

SIGTERM goes to its group, SIGKILL to the tree.

Each step has a time; a stronger reason replaces a weaker one. The last step needs no cooperation, so an end that
was requested always comes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from pod_worker.core.clock import Clock
from pod_worker.worker.attempt.ending import EndReason, EndRequest
from pod_worker.worker.isolation.guarded_child import GuardedChild

log = logging.getLogger(__name__)
GUARD_SECONDS = 15.0  # from SIGKILL to the guard's report; it sweeps for up to 10 s


@dataclass(frozen=True, slots=True)
class StopTimeouts:
    """Seconds between the steps of an end."""

    cancel_seconds: float = 5.0  # from asking to SIGTERM
    drain_seconds: float = 30.0  # the same, when the worker is stopping: time to write a checkpoint
    kill_seconds: float = 5.0  # from SIGTERM to SIGKILL
    guard_seconds: float = GUARD_SECONDS


class EndSequence:
    def __init__(self, run_id: str, child: GuardedChild, timeouts: StopTimeouts, clock: Clock) -> None:
        self._run_id = run_id
        self._child = child
        self._timeouts = timeouts
        self._clock = clock
        self._next: Callable[[], None] = self._terminate
        self._deadline: float | None = None  # monotonic time of the next step
        self._is_killed = False
        self.request: EndRequest | None = None

    @property
    def is_under_way(self) -> bool:
        """Whether `escalate_if_due` has to be called from time to time."""
        return self._deadline is not None

    def begin(self, request: EndRequest) -> None:
        """Start to end, or hasten it. The same reason again changes nothing."""
        if self.request and request.reason <= self.request.reason:
            return
        log.info("run %s: %s %s", self._run_id, request.reason.name.lower(), request.detail)
        self.request = request
        if request.reason is not EndReason.CANCEL and not request.reason.is_orderly:
            self._kill()
        elif not self._is_killed:
            self._ask(request.reason)

    def escalate_if_due(self) -> None:
        if self._deadline is not None and self._clock.monotonic() >= self._deadline:
            self._next()

    def _ask(self, reason: EndReason) -> None:
        timeouts = self._timeouts
        seconds = timeouts.cancel_seconds if reason is EndReason.CANCEL else timeouts.drain_seconds
        self._child.ask_to_stop("cancel" if reason is EndReason.CANCEL else "drain", seconds)
        self._schedule(seconds, self._terminate)

    def _terminate(self) -> None:
        self._child.terminate()
        self._schedule(self._timeouts.kill_seconds, self._kill)

    def _kill(self) -> None:
        self._is_killed = True
        self._child.kill()
        self._schedule(self._timeouts.guard_seconds, self._kill_guard)

    def _kill_guard(self) -> None:
        log.error("run %s: the guard does not answer; killing it and what is left of the run", self._run_id)
        self._child.kill_guard()
        self._deadline = None

    def _schedule(self, seconds: float, step: Callable[[], None]) -> None:
        self._deadline = self._clock.monotonic() + seconds
        self._next = step
