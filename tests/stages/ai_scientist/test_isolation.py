"""A program that kills every python it sees reaches no process outside."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.stages.ai_scientist.isolation import isolation_prefix

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
