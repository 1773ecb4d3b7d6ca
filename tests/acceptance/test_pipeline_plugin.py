"""The example package is installed with pip; a worker then executes its pipeline."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.acceptance.local_stack import Running

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "pipeline_plugin"


def install(example: Path, folder: Path) -> Path:
    source = shutil.copytree(example, folder / "source")  # a build writes beside the sources
    target = folder / "packages"
    subprocess.run(
        [
            sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation",
            "--disable-pip-version-check", "--root-user-action=ignore", "--target", str(target), str(source),
        ],
        check=True,
    )  # fmt: skip
    return target


def test_an_installed_package_adds_a_pipeline(running: Running, tmp_path: Path) -> None:
    packages = {"PYTHONPATH": os.pathsep.join([str(install(EXAMPLE, tmp_path)), os.environ.get("PYTHONPATH", "")])}
    refused = running.cli("runs", "submit", "estimate-pi", "-p", "points=0", check=False, **packages)
    assert refused.returncode != 0
    assert "'points' is 0" in refused.stderr
    submitted = running.cli("runs", "submit", "estimate-pi", "-p", "points=50000", **packages)
    run_id = submitted.stdout.strip()
    with running.worker("plugin", "--max-runs", "1", **packages) as worker:
        run = running.wait_status(run_id, "COMPLETED", "FAILED")
        assert worker.wait() == 0
    assert run["status"] == "COMPLETED", run.get("errorMessage")
    assert 3.0 < run["checkpoints"]["sampling"]["state"]["pi"] < 3.3
    assert running.db.artifacts.count_documents({"runId": run_id, "kind": "report"}) == 1
    without = running.cli("runs", "submit", "estimate-pi", check=False)
    assert "does not exist" in without.stderr
