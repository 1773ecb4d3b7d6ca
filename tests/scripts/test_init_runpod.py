"""The pod scripts, run for real in a copy of the project with a virtual environment of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
INIT = ["bash", "scripts/init_runpod.sh", "--skip-gpu", "--skip-system", "--extras", ""]


def run(folder: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MONGODB", "POD_WORKER"))}
    # The project's own environment must not stand in for the one that the script makes.
    clean.pop("VIRTUAL_ENV", None)
    return subprocess.run(
        words,
        cwd=folder,
        env={**clean, "PIP_NO_COMPILE": "1", **env},
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pod") / "pod_worker"
    folder.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "manage_runs.py"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("pod_worker", "requirements", "scripts"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.mark.timeout(360)
def test_a_blank_pod_becomes_ready_resuming_after_a_failure_and_skipping_what_is_done(project: Path) -> None:
    pyproject = project / "pyproject.toml"
    pyproject.write_text("this is no project")
    broken = run(project, *INIT, "--no-start")
    assert broken.returncode == 1
    assert "package failed" in broken.stderr
    assert not (project / ".venv/.init/package.done").exists()

    shutil.copy(ROOT / "pyproject.toml", pyproject)
    first = run(project, *INIT, "--no-start")
    assert first.returncode == 0, first.stderr
    assert "init: environment: done before, skipped" in first.stdout
    assert "init: package: done" in first.stdout
    assert (project / ".venv/bin/pod-worker").exists()

    again = run(project, *INIT, "--no-start")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("done before, skipped") == 2

    unset = run(project, *INIT)
    assert unset.returncode == 2
    assert "MONGODB_URL is not set" in unset.stderr

    (project / ".env").write_text(
        "MONGODB_URL=mongodb://ana:sentinel@127.0.0.1:1/x?serverSelectionTimeoutMS=200\n"
    )
    started = run(project, *INIT, "--mode", "training", "--exit-when-idle", "0")
    output = started.stdout + started.stderr
    assert started.returncode == 75, output
    assert "init: MONGODB_URL from .env" in started.stdout
    assert "Cannot reach mongodb://***@127.0.0.1:1" in started.stderr
    assert "sentinel" not in output

    wrong = run(project, "bash", "scripts/start_worker.sh", "--mode", "nonsense")
    assert wrong.returncode == 2
    assert "nonsense" in wrong.stderr


def test_start_worker_names_what_is_missing(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    absent = run(tmp_path, "bash", "scripts/start_worker.sh", POD_WORKER_PYTHON="/bin/false")
    assert absent.returncode == 2
    assert "init_runpod.sh" in absent.stderr


def test_a_pod_whose_driver_does_not_answer_is_refused_unless_told(project: Path, tmp_path: Path) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\nexit 9\n")
    smi.chmod(0o755)
    words = [word for word in INIT if word != "--skip-gpu"]
    done = run(project, *words, "--no-start", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert done.returncode == 1
    assert "--skip-gpu" in done.stderr
