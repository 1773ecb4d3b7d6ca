"""A program is started, waited for and stopped as a whole."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pod_worker.command.execution.process import CommandEnd, CommandProcess
from pod_worker.core.failure import DrainRequested
from pod_worker.stages.context import StopFlag

NEVER = 600.0
SHELL = ["bash", "-c"]


def run(
    text: str, folder: Path, stop: StopFlag | None = None, on_stop: Callable[[], None] = lambda: None
) -> CommandEnd:
    return CommandProcess([*SHELL, text], folder, dict(os.environ)).wait(stop or StopFlag(), on_stop)


class StopWhenReady:
    """Asks to stop as soon as the job has created the file `ready`."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.flag = StopFlag()
        self._ready = folder / "ready"
        threading.Thread(target=self._watch, args=(seconds,), daemon=True).start()

    def _watch(self, seconds: float) -> None:
        while not self._ready.exists():
            threading.Event().wait(0.02)
        self.flag.request(DrainRequested, seconds)


def is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_exit_codes_and_signals_are_reported(tmp_path: Path) -> None:
    assert run("exit 0", tmp_path) == CommandEnd(0)
    assert run("exit 7", tmp_path) == CommandEnd(7)
    assert run("kill -BUS $$", tmp_path) == CommandEnd(signal=signal.SIGBUS)


def test_the_command_has_a_group_of_its_own_an_empty_input_and_no_descriptor_of_ours(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.set_inheritable(read, True)  # as a library may leave one
    assert run("ps -o pgid= -p $$ > group; cat > input; ls /proc/self/fd > fds", tmp_path).is_ok
    for fd in (read, write):
        os.close(fd)
    assert int((tmp_path / "group").read_text()) != os.getpgrp()
    assert (tmp_path / "input").read_bytes() == b""
    assert str(read) not in (tmp_path / "fds").read_text().split()


def test_what_the_command_leaves_in_the_background_is_killed_also_in_a_session_of_its_own(tmp_path: Path) -> None:
    assert run("sleep 600 & echo $! > a; setsid sleep 600 & echo $! > b; exit 0", tmp_path).is_ok
    assert not any(is_running(int((tmp_path / name).read_text())) for name in "ab")


def test_other_children_of_this_process_are_spared(tmp_path: Path) -> None:
    other = psutil.Popen(["sleep", "600"])
    try:
        run("exit 0", tmp_path)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_stop_creates_the_file_then_sends_sigterm_and_waits_for_the_job(tmp_path: Path) -> None:
    stop = StopWhenReady(tmp_path, NEVER)
    job = "trap 'cat told && touch saved; exit 0' TERM; touch ready; while :; do sleep 0.05; done"
    end = run(job, tmp_path, stop.flag, (tmp_path / "told").touch)
    assert end == CommandEnd(0, was_stopped=True)
    assert not end.is_ok, "a job that left in time is not finished"
    assert (tmp_path / "saved").exists(), "SIGTERM came first, or never"


def test_a_program_inside_a_shell_has_its_time_although_the_shell_died_of_sigterm(tmp_path: Path) -> None:
    """bash dies of SIGTERM at once; the training inside it is still writing its checkpoint."""
    program = """
import pathlib, signal, sys, time
def save(*_):
    time.sleep(0.5)
    pathlib.Path("saved").touch()
    sys.exit(1)
signal.signal(signal.SIGTERM, save)
pathlib.Path("ready").touch()
time.sleep(600)
"""
    (tmp_path / "train.py").write_text(program)
    stop = StopWhenReady(tmp_path, NEVER)
    end = run(f"{sys.executable} train.py; echo after", tmp_path, stop.flag)
    assert end == CommandEnd(signal=signal.SIGTERM, was_stopped=True)
    assert (tmp_path / "saved").exists()


def test_a_job_that_ignores_sigterm_is_killed_when_its_time_is_over(tmp_path: Path) -> None:
    stop = StopWhenReady(tmp_path, 0.4)
    end = run("trap '' TERM; sleep 600 & echo $! > inner; touch ready; wait; wait", tmp_path, stop.flag)
    assert end == CommandEnd(signal=signal.SIGKILL, was_stopped=True)
    assert not is_running(int((tmp_path / "inner").read_text()))


def test_a_stop_leaves_time_for_what_comes_after_the_job(tmp_path: Path) -> None:
    stop = StopWhenReady(tmp_path, 4.0)
    run("trap '' TERM; touch ready; while :; do sleep 0.05; done", tmp_path, stop.flag)
    left = stop.flag.seconds_left()
    assert left is not None
    assert left > 0.3


def test_a_program_that_cannot_be_started_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        CommandProcess(["no-such-program"], tmp_path, dict(os.environ))
