"""How scripts/install_packages.sh chooses a build of torch, with a recorded pip instead of a download."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CPU_INDEX = "file:///cpu-builds"

# Answers like a Python without torch; records each pip command. A wheel from the CPU index exists if the test says so.
PYTHON = """#!/bin/bash
case "$*" in
  *importlib*) exit 1 ;;
  "-m pip config list") exit 0 ;;
  "-m pip index versions torch") echo "Available versions: $VERSIONS"; exit 0 ;;
esac
echo "$*" >> "$RECORD"
case "$*" in *--index-url*) exit "$CPU_INDEX_STATUS" ;; esac
"""

Install = Callable[..., tuple[str, list[str]]]


@pytest.fixture
def install(tmp_path: Path) -> Install:
    """Runs the script in an empty project and returns its output and the pip commands that name torch."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/install_packages.sh", tmp_path / "scripts")
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON)
    python.chmod(0o755)

    def run(*, gpu: bool = False, cpu_index: str = "", delivers: bool = True, versions: str = "2.14.0, 2.13.0"):
        smi = tmp_path / "bin/nvidia-smi"
        smi.parent.mkdir()
        smi.write_text(f"#!/bin/sh\nexit {0 if gpu else 9}\n")
        smi.chmod(0o755)
        record = tmp_path / "record"
        done = subprocess.run(
            ["bash", "scripts/install_packages.sh", "train"],
            cwd=tmp_path,
            env={
                "PATH": f"{smi.parent}:/usr/bin:/bin",
                "RECORD": str(record),
                "VERSIONS": versions,
                "TORCH_CPU_INDEX": cpu_index,
                "CPU_INDEX_STATUS": "0" if delivers else "1",
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout, [line for line in record.read_text().splitlines() if "torch==" in line]

    return run


def test_the_size_of_a_cuda_build_is_stated_before_its_download(install: Install) -> None:
    output, commands = install()
    assert "2.13.0 is a CUDA build here, a download of about 2.7 GB" in output
    assert "CONTRIBUTING.md" in output
    assert commands == ["-m pip install --no-compile torch==2.13.0"], "pip shows its progress, so it is not quiet"


def test_the_cpu_index_comes_first_without_a_gpu(install: Install) -> None:
    output, commands = install(cpu_index=CPU_INDEX)
    assert commands == [f"-m pip install --no-compile --no-deps --index-url {CPU_INDEX} torch==2.13.0"]
    assert "2.7 GB" not in output


def test_the_default_index_follows_a_cpu_index_that_does_not_deliver(install: Install) -> None:
    output, commands = install(cpu_index=CPU_INDEX, delivers=False)
    assert len(commands) == 2
    assert commands[1] == "-m pip install --no-compile torch==2.13.0"
    assert output.index("did not deliver") < output.index("2.7 GB")


def test_a_machine_with_a_gpu_takes_the_cuda_build(install: Install) -> None:
    output, commands = install(gpu=True, cpu_index=CPU_INDEX)
    assert commands == ["-m pip install --no-compile torch==2.13.0"]
    assert "2.7 GB" in output
    assert "CPU build" not in output


def test_an_index_with_a_cpu_build_is_no_cuda_download(install: Install) -> None:
    output, _ = install(versions="2.13.0+cpu, 2.13.0")
    assert "2.7 GB" not in output


def test_every_lock_is_installed_with_hashes(install: Install, tmp_path: Path) -> None:
    install()
    commands = (tmp_path / "record").read_text().splitlines()
    locks = [line for line in commands if ".lock" in line]
    assert [line.rpartition("/")[2] for line in locks] == ["installer.lock", "core.lock", "train.lock"]
    assert all("--require-hashes" in line for line in locks)
