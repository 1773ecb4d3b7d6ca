"""A program that kills every python it sees reaches no process outside."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.stages.ai_scientist.isolation import isolated, isolation_prefix

LIST_PIDS = "import os; print(*[name for name in os.listdir('/proc') if name.isdigit()])"


def test_a_contained_program_sees_only_its_own_processes() -> None:
    command = [*isolation_prefix(), sys.executable, "-c", LIST_PIDS]
    end = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert end.stdout.split() == ["1"]


@pytest.mark.parametrize("prefix", [("env",), ("no-such-program",), ("false",)])
def test_a_prefix_that_isolates_nothing_is_refused(prefix: tuple[str, ...]) -> None:
    with pytest.raises(RunError, match="PID namespace") as caught:
        isolation_prefix((prefix,))
    assert caught.value.code is FailureCode.ENVIRONMENT


SHOW = """
import os, signal, subprocess, sys
orphan = subprocess.Popen(["sleep", "600"], start_new_session=True)
handler = signal.getsignal(signal.SIGINT)
print(os.getpid() != 1, handler is signal.default_int_handler, flush=True)
os.kill(os.getpid(), signal.SIGTERM)
"""


def test_a_contained_program_is_an_ordinary_process_and_leaves_none_behind() -> None:
    """The original stops its programs with SIGINT and kills itself at its end."""
    command = isolated(isolation_prefix(), [sys.executable, "-c", SHOW])
    end = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert end.stdout.split() == ["True", "True"]
    assert end.returncode == 128 + 15


def test_a_contained_program_cannot_signal_a_process_outside() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as outside:
        kill = f"import os; os.kill({outside.pid}, 9)"
        command = isolated(isolation_prefix(), [sys.executable, "-c", kill])
        end = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert "ProcessLookupError" in end.stderr
        assert outside.poll() is None
        outside.communicate(b"\n")
