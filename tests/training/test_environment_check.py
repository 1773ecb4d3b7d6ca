"""A torch that transformers does not accept is found by one training step, before a run is claimed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pod_worker.cli.diagnostics.doctor_checks import training_step
from tests.training.old_torch import make_old_torch

COMMAND = [sys.executable, "-W", "ignore", "-m", "pod_worker.training.environment_check", "cpu"]


def test_the_installed_libraries_train() -> None:
    done = subprocess.run(COMMAND, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("one training step on cpu\n")


def test_the_doctor_refuses_an_old_torch_with_the_versions_and_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(make_old_torch(tmp_path)))
    found = training_step()
    assert (found.what, found.status) == ("training", "bad")
    assert "does not accept torch 2.4.0. Fix: use an image whose torch fits" in found.text
