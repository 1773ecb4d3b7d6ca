"""The process of a command: its own process group, stopped as a whole."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pod_worker.core.stop_signal import StopSignal

POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class CommandEnd:
    """How a process ended; `signal` is set when a signal ended it."""

    code: int | None = None
    signal: int | None = None
    was_stopped: bool = False

    @property
    def is_ok(self) -> bool:
        return self.code == 0


class CommandProcess:
    """Standard output and error are those of this process; standard input is empty."""

    def __init__(self, argv: list[str], cwd: Path, env: Mapping[str, str]) -> None:
        """Raises OSError when the program cannot be started."""
        self._process = subprocess.Popen(
            argv, cwd=cwd, env=env, stdin=subprocess.DEVNULL, process_group=0, close_fds=True
        )

    def wait(self, stop: StopSignal, on_stop: Callable[[], None]) -> CommandEnd:
        """Blocks until the program has ended.

        After a request to stop, `on_stop` is called and the group gets SIGTERM. SIGKILL is the supervisor's part.
        """
        was_stopped = False
        while True:
            try:
                code = self._process.wait(POLL_SECONDS)
            except subprocess.TimeoutExpired:
                if stop.is_set() and not was_stopped:
                    was_stopped = True
                    on_stop()
                    self.send_signal(signal.SIGTERM)
                continue
            return CommandEnd(code if code >= 0 else None, -code if code < 0 else None, was_stopped)

    def send_signal(self, number: int) -> None:
        """To every process of the group."""
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            pass
