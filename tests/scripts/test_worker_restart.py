"""scripts/start_worker.sh starts a worker again that died, passes signals on, and returns a clean exit code."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "start_worker.sh"
FAKE_PYTHON = """#!/usr/bin/env bash
if [ "$1" = -c ]; then exit 0; fi
echo started >> "$LOG"
count=$(wc -l < "$LOG")
if [ "$count" -lt "$ENDS_AT" ]; then kill -"${SIGNAL:-KILL}" $$; fi
if [ -n "${WAITS:-}" ]; then
  trap 'exit 143' TERM
  while :; do sleep 0.05; done
fi
exit "${CODE:-0}"
"""


def start(tmp_path: Path, *words: str, **env: str) -> subprocess.Popen[str]:
    python = tmp_path / "python"
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)
    own = {"POD_WORKER_PYTHON": str(python), "LOG": str(tmp_path / "log"), "RESTART_SECONDS": "0", "ENDS_AT": "1"}
    return subprocess.Popen(
        ["bash", str(SCRIPT), *words], env={**os.environ, **own, **env}, stderr=subprocess.PIPE, text=True
    )


def starts(tmp_path: Path) -> int:
    log = tmp_path / "log"
    return len(log.read_text().splitlines()) if log.exists() else 0


def test_a_worker_that_died_is_started_again(tmp_path: Path) -> None:
    process = start(tmp_path, ENDS_AT="3")
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, starts(tmp_path)) == (0, 3)
    assert "ended with code 137; starting it again" in errors


@pytest.mark.parametrize("code", [0, 143, 2])
def test_a_clean_exit_is_the_end(tmp_path: Path, code: int) -> None:
    process = start(tmp_path, CODE=str(code))
    process.communicate(timeout=30)
    assert (process.returncode, starts(tmp_path)) == (code, 1)


@pytest.mark.parametrize("option", ["--max-runs=1", "--run-id", "--exit-when-idle"])
def test_with_a_limit_the_exit_code_is_the_answer(tmp_path: Path, option: str) -> None:
    process = start(tmp_path, option, "1", CODE="1")
    process.communicate(timeout=30)
    assert (process.returncode, starts(tmp_path)) == (1, 1)


def test_a_signal_reaches_the_worker_and_ends_the_loop(tmp_path: Path) -> None:
    process = start(tmp_path, WAITS="yes")
    while not starts(tmp_path):
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert (process.returncode, starts(tmp_path)) == (143, 1)
