"""A thread that repeats one step, survives every exception, reports its health.

Every long-lived thread of a worker or a control plane is one of these. An exception is logged, counted and
followed by a growing pause. `problem` says when the thread is dead, stuck in a step, or fails again and again;
the code that reports the health of the process asks it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from pod_worker.core.backoff import backoff_bound

log = logging.getLogger(__name__)
STUCK_SECONDS = 120.0
FAILURES_TO_REPORT = 3


class SupervisedThread:
    """Calls `step` repeatedly; it returns the seconds until the next call, or None.

    `wake` ends a pause early. `backoff_seconds` are the first and the longest pause after an exception.
    `stuck_seconds` is how long one step may take before `problem` reports it; None where a step waits for input.
    """

    def __init__(
        self,
        name: str,
        step: Callable[[], float | None],
        *,
        backoff_seconds: tuple[float, float] = (0.5, 30.0),
        stuck_seconds: float | None = STUCK_SECONDS,
        log: Callable[[str], object] = log.warning,
    ) -> None:
        self.name = name
        self._step = step
        self._first_pause, self._longest_pause = backoff_seconds
        self._stuck_seconds = stuck_seconds
        self._log = log
        self._failures = 0  # in a row
        self._last_error = ""
        self._step_began: float | None = None
        self._stopping = threading.Event()
        self._woken = threading.Event()
        self._has_ended = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Take the next step now."""
        self._woken.set()

    def stop(self, timeout: float = 5.0) -> bool:
        """End after the step in progress; False after `timeout` seconds."""
        self._stopping.set()
        self._woken.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def pause(self, seconds: float) -> bool:
        """A sleep inside a step; True as soon as the thread was asked to stop."""
        return self._stopping.wait(seconds)

    def join(self, timeout: float) -> bool:
        """Wait for a step to end the thread; False after `timeout` seconds."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    @property
    def is_stopping(self) -> bool:
        return self._stopping.is_set()

    @property
    def failures(self) -> int:
        """Exceptions in a row; 0 after a step that succeeded."""
        return self._failures

    def problem(self) -> str | None:
        """What is wrong with the thread; None while it works or was never started."""
        if self._thread.ident is None or self._has_ended or self._stopping.is_set():
            return None
        if not self._thread.is_alive():
            return f"thread {self.name} is dead"
        began = self._step_began
        if began is not None and self._stuck_seconds is not None:
            elapsed = time.monotonic() - began
            if elapsed > self._stuck_seconds:
                return f"thread {self.name} is stuck for {elapsed:.0f} s"
        if self._failures >= FAILURES_TO_REPORT:
            return f"thread {self.name} failed {self._failures} times in a row: {self._last_error}"
        return None

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._woken.clear()  # before the step: a wake during it must not be lost
            pause = self._try_step()
            if pause is None:
                self._has_ended = True
                return
            if pause > 0:
                self._woken.wait(pause)

    def _try_step(self) -> float | None:
        self._step_began = time.monotonic()
        try:
            pause = self._step()
        except Exception as error:
            return self._record_failure(error)
        finally:
            self._step_began = None
        self._failures = 0
        return pause

    def _record_failure(self, error: Exception) -> float:
        self._failures += 1
        self._last_error = f"{type(error).__name__}: {error}"[:300]
        pause = backoff_bound(self._failures - 1, self._first_pause, self._longest_pause)
        try:
            self._log(f"thread {self.name} failed ({self._last_error}); next try in {pause:.1f} s")
            log.debug("thread %s failed", self.name, exc_info=error)
        except Exception:
            pass  # a log that fails must not end the thread either
        return pause


def every(seconds: float, action: Callable[[], object]) -> Callable[[], float]:
    """A step that calls `action` and pauses for `seconds`."""

    def step() -> float:
        action()
        return seconds

    return step
