"""The Python of a job: the worker's, a venv, or one that uv makes.

With `setup`, the worker's interpreter gets a venv on top: packages of the worker are visible, and what setup
installs stays in the venv. The worker's own packages are never changed.
"""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pod_worker
from pod_worker.core.failure import FailureCode, RunError
from pod_worker.process.removal import remove

VENV = "venv"
REPORT, INTEGRATIONS = "report.py", "integrations"  # what a job may import
OVERLAY = "import site; site.addsitedir({!r})\n"


def needs_venv(word: str, setup: str) -> bool:
    return bool(word or setup.strip())


def identity(word: str) -> str:
    """What an environment depends on beside its setup."""
    return " ".join([word, os.path.realpath(sys.executable), sys.prefix, sys.version, *os.uname()[3:]])


def create_venv(word: str, folder: Path, env: Mapping[str, str]) -> None:
    """Raises RunError(ENVIRONMENT) with the cause and the fix."""
    venv = folder / VENV
    if word.startswith("uv"):
        _call(_uv_command(word, venv, env), env, "uv cannot create the environment")
    elif word:
        command = [_python_of(word, env), "-m", "venv", str(venv)]
        _call(command, env, "the venv cannot be created; on Debian, install the package python3-venv")
    else:
        _call([sys.executable, "-m", "venv", "--without-pip", str(venv)], env, "the venv cannot be created")
        _overlay(venv)


def _overlay(venv: Path) -> None:
    """The worker's packages, behind those of the venv."""
    [packages] = (venv / "lib").glob("python*/site-packages")
    lines = [OVERLAY.format(path) for path in dict.fromkeys(map(os.path.realpath, site.getsitepackages()))]
    (packages / "worker_packages.pth").write_text("".join(lines))


def _uv_command(word: str, venv: Path, env: Mapping[str, str]) -> list[str]:
    uv = shutil.which("uv", path=env.get("PATH"))
    if uv is None:
        raise RunError(
            FailureCode.ENVIRONMENT,
            f'python: {word!r} needs uv, which this pod lacks; install it in the image, or write "venv"',
        )
    version = word.partition(":")[2]
    return [uv, "venv", *(["--python", version] if version else []), str(venv)]


def _python_of(word: str, env: Mapping[str, str]) -> str:
    ours = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if word in ("venv", ours):
        return sys.executable
    found = shutil.which(f"python{word}", path=env.get("PATH"))
    if found is None:
        raise RunError(
            FailureCode.ENVIRONMENT,
            f'python: this pod has no python{word}; install it in the image, or write "uv:{word}" where uv is '
            f'installed, or "venv" for {ours}',
        )
    return found


def _call(command: list[str], env: Mapping[str, str], problem: str) -> None:
    done = subprocess.run(
        command, env=dict(env), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()[-3:]
        raise RunError(FailureCode.ENVIRONMENT, f"{problem}: {' / '.join(lines)[:500]}")


def venv_variables(folder: Path) -> dict[str, str]:
    return {"VIRTUAL_ENV": str(folder / VENV)}


def folders_of(folder: Path) -> list[Path]:
    """The venv, and its interpreter: one of uv lies elsewhere."""
    real = Path(os.path.realpath(folder / VENV / "bin" / "python")).parents[1]
    is_known = any(real.is_relative_to(each) for each in ("/usr", os.path.realpath(sys.base_prefix)))
    return [folder / VENV, *([] if is_known else [real])]


def provide_programs(folder: Path) -> list[Path]:
    """The folders for PATH with the worker's interpreter as `python`.

    `folder` is for a `python` where there is only a `python3`.
    """
    own = Path(sys.executable).parent
    if (own / "python").exists():
        return [own]
    folder.mkdir(exist_ok=True)
    script = folder / "python"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    script.chmod(0o755)
    return [folder, own]


def provide_modules(folder: Path) -> str:
    """A folder for PYTHONPATH: `pod_worker.report` and its integrations.

    The package in it has no __init__.py. So an interpreter with pod_worker installed goes on using that one, and
    no other module of the worker becomes visible. The files are copies: a program may change them.
    """
    source, target = Path(pod_worker.__file__).parent, folder / "pod_worker"
    remove(folder)
    target.mkdir(parents=True)
    shutil.copyfile(source / REPORT, target / REPORT)
    shutil.copytree(source / INTEGRATIONS, target / INTEGRATIONS, ignore=shutil.ignore_patterns("__pycache__"))
    return str(folder)
