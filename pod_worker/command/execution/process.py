"""The process of a command: its own process group, stopped as a whole.

This process is the subreaper of everything the command starts: a job whose shell died of SIGTERM is over when the
program inside has written its checkpoint, not before.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pod_worker.core.stop_signal import TimedStopSignal
from pod_worker.process.oom_kills import OomKillCounter
from pod_worker.process.tree import become_subreaper, children, descendants, kill_tree

POLL_SECONDS = 0.1
# What a stop leaves for the snapshot and the outputs after the job: a share of its time, and never more than this.
RESERVED_SHARE = 0.25
RESERVED_SECONDS = 15.0


def reserved_seconds(left: float) -> float:
    return min(left * RESERVED_SHARE, RESERVED_SECONDS)


@dataclass(frozen=True, slots=True)
class CommandEnd:
    """How a program ended; `signal` is set when a signal ended it."""

    code: int | None = None
    signal: int | None = None
    was_stopped: bool = False
    is_oom_killed: bool = False  # the kernel killed a process for memory meanwhile

    @property
    def is_ok(self) -> bool:
        return self.code == 0 and not self.was_stopped


class CommandProcess:
    """A program without standard input.

    Standard output and error are those of this process, or the descriptor `output`.
    """

    def __init__(self, argv: list[str], cwd: Path, env: Mapping[str, str], output: int | None = None) -> None:
        """Raises OSError when the program cannot be started."""
        become_subreaper()
        self._foreign_children = frozenset(children(os.getpid()))  # not of this program
        self._oom_kills = OomKillCounter()
        self._process = subprocess.Popen(
            argv,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            process_group=0,
            close_fds=True,
        )

    def wait(self, stop: TimedStopSignal, on_stop: Callable[[], None] = lambda: None) -> CommandEnd:
        """Blocks until nothing of the program is left.

        After a request to stop, `on_stop` is called, the group gets SIGTERM, and SIGKILL when the time is over.
        """
        was_stopped = False
        while not self._has_ended(POLL_SECONDS):
            if stop.is_set() and not was_stopped:
                was_stopped = True
                on_stop()
                self._stop(stop)
        kill_tree(os.getpid(), spared=self._foreign_children)  # what it left in the background
        code = self._process.wait()
        ended_by = -code if code < 0 else None
        return CommandEnd(code if code >= 0 else None, ended_by, was_stopped, self._oom_kills.has_increased())

    def _stop(self, stop: TimedStopSignal) -> None:
        self._signal(signal.SIGTERM)
        reserved = reserved_seconds(stop.seconds_left() or 0.0)
        while (stop.seconds_left() or 0.0) > reserved and self._is_alive():
            time.sleep(POLL_SECONDS)
        self._signal(signal.SIGKILL)

    def _has_ended(self, seconds: float) -> bool:
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _is_alive(self) -> bool:
        """Whether any process of the job is left, in its group or not."""
        self._process.poll()
        return bool(descendants(os.getpid(), self._foreign_children))

    def _signal(self, number: int) -> None:
        """To every process of the group."""
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            pass
