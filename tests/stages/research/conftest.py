from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pod_worker.sandbox.client import SandboxClient
from tests.stages.research.experiment import SEARCHES, WRITING, SmallExperiment


@pytest.fixture(scope="session")
def small_experiment(code_runner: SandboxClient, open_folder: Path) -> SmallExperiment:
    """A finished experiment of all stages. Tests must not change its files."""
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed. Fix: apt-get install texlive-latex-recommended (make latex)")
    found = SmallExperiment(open_folder / "experiment", code_runner)
    found.run(*SEARCHES, *WRITING)
    return found
