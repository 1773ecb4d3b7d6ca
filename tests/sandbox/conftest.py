"""One warm server with numpy for the folder's tests, under the user that programs have where we are root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pod_worker.core.execution import ExecutionLimits, ExecutionRequest, ExecutionResult
from pod_worker.sandbox.client import SandboxClient
from pod_worker.sandbox.starting import LocalStarter
from tests.sandbox.support import ROOT, NeverStop, floor, open_python

Execute = Callable[..., ExecutionResult]


@pytest.fixture(scope="session")
def library_path() -> dict[str, str]:
    """The packages of this interpreter, for one that other users may start."""
    return {"PYTHONPATH": os.pathsep.join([str(ROOT), *(path for path in sys.path if "site-packages" in path)])}


@pytest.fixture(scope="session")
def runner(library_path: dict[str, str]) -> Iterator[SandboxClient]:
    starter = LocalStarter(["numpy"], python=open_python(), variables=library_path)
    with SandboxClient(starter, floor()) as client:
        yield client


@pytest.fixture
def base() -> Iterator[Path]:
    """A folder that every user may enter, unlike pytest's."""
    folder = Path(tempfile.mkdtemp(prefix="sandbox-test-"))
    folder.chmod(0o711)
    yield folder
    subprocess.run(["chmod", "-R", "u+rwX", str(folder)], check=False, stderr=subprocess.DEVNULL)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def folder(base: Path) -> Path:
    node = base / "node"
    node.mkdir(mode=0o700)
    return node


@pytest.fixture
def execute(runner: SandboxClient, folder: Path) -> Execute:
    """Execute the text of a program in the test's folder."""

    def run(
        program: str, *arguments: str, limits: dict[str, Any] | None = None, **options: Any
    ) -> ExecutionResult:
        (folder / "solution.py").write_text(textwrap.dedent(program))
        request = ExecutionRequest(
            folder=folder,
            argv=("solution.py", *arguments),
            limits=ExecutionLimits(**{"wall_seconds": 60.0, **(limits or {})}),
            **options,
        )
        return runner.execute(request, NeverStop())

    return run
