"""The pod scripts, run for real in a copy of the project with a virtual environment of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.old_torch import make_old_torch

ROOT = Path(__file__).resolve().parents[2]
INIT = ["bash", "scripts/init_runpod.sh", "--skip-gpu", "--skip-system", "--extras", ""]


def run(folder: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MONGODB", "POD_WORKER"))}
    # The project's own environment must not stand in for the one that the script makes.
    clean.pop("VIRTUAL_ENV", None)
    return subprocess.run(
        words,
        cwd=folder,
        env={**clean, "PIP_NO_COMPILE": "1", "POD_WORKER_DATA": str(folder / "state"), **env},
        capture_output=True,
        text=True,
        timeout=340,
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


@pytest.mark.timeout(700)
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
    # pytest's folders are closed to other users, as /root is on a pod.
    wanted = "warning: runs would work as root" if os.geteuid() == 0 else "the worker's own user"
    assert f"init: user of runs: {wanted}" in first.stdout

    again = run(project, *INIT, "--no-start")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("done before, skipped") == 2

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


def test_settings_and_gpu_are_checked_before_anything_is_installed(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    unset = run(tmp_path, *INIT)
    assert unset.returncode == 2
    assert "MONGODB_URL is not set" in unset.stderr
    no_gpu = run(tmp_path, *[word for word in INIT if word != "--skip-gpu"], MONGODB_URL="mongodb://host/x")
    assert no_gpu.returncode == 1
    assert "no GPU found" in no_gpu.stderr
    assert not (tmp_path / ".venv").exists(), "nothing was installed"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("line", ["MONGODB_URL=x", "export MONGODB_URL = x", "  MONGODB_URL_FILE=x"])
def test_settings_of_the_env_file_count(tmp_path: Path, line: str, encoding: str) -> None:
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    (tmp_path / ".env").write_text(f"{line}\n", encoding=encoding)
    done = run(tmp_path, *[word for word in INIT if word != "--skip-gpu"])
    assert "no GPU found" in done.stderr, "the settings were found, so the GPU was looked for"


def test_a_pod_whose_torch_does_not_fit_is_refused_before_the_worker_starts(tmp_path: Path) -> None:
    """The steps before are marked as done; the check uses this machine's own libraries under an older version."""
    for name in ("pyproject.toml", "pod_worker", "requirements", "scripts"):
        (tmp_path / name).symlink_to(ROOT / name)
    old_torch = make_old_torch(tmp_path)
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nPYTHONPATH={old_torch} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    marks = tmp_path / ".venv/.init"
    marks.mkdir()
    fingerprints = 'printf %s "$(python3 -V 2>&1)" > .venv/.init/environment.done\n' + (
        'printf %s "train gpu=no $(cat pyproject.toml requirements/* | cksum)" > .venv/.init/package.done'
    )
    run(tmp_path, "bash", "-c", fingerprints)
    words = ["bash", "scripts/init_runpod.sh", "--skip-gpu", "--skip-system", "--no-start"]
    done = run(tmp_path, *words)
    assert done.returncode == 1, done.stdout
    assert "does not accept torch 2.4.0. Fix: use an image whose torch fits" in done.stderr
    assert "this pod cannot train" in done.stderr
    assert "init: ready" not in done.stdout


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
