"""A worker of root whose home is closed, with default folders: its runs work under a user of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pod_worker.worker.isolation.child_user import DEFAULT_UID
from tests.acceptance.local_stack import Running, wait_for
from tests.worker.test_untrusted_child import interpreter_of_everyone

ROOT = Path(__file__).resolve().parents[2]
LEAKING_RUN = Path(__file__).parent / "leaking_run"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="state-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def python() -> tuple[str, str]:
    """(interpreter, PYTHONPATH) with which another user can run the package."""
    if os.geteuid() != 0:
        pytest.skip("only a worker that is root gives runs a user of their own")
    interpreter = interpreter_of_everyone()
    packages = [path for path in sys.path if path.endswith("site-packages")]
    path = os.pathsep.join([str(LEAKING_RUN), str(ROOT), *packages])
    probe = [interpreter, "-c", "import pod_worker.worker.child, pod_worker.cli.services.worker"]
    done = subprocess.run(
        probe, env={"PYTHONPATH": path}, cwd="/", user=DEFAULT_UID, group=DEFAULT_UID, check=False
    )
    if done.returncode:
        pytest.skip(f"another user cannot import the package with {interpreter}")
    return interpreter, path


def test_a_root_worker_with_a_closed_home_gives_its_runs_a_user(
    running: Running, open_folder: Path, python: tuple[str, str]
) -> None:
    interpreter, path = python
    home, state = open_folder / "root", open_folder / "data" / "state"
    home.mkdir(mode=0o700)
    evidence = open_folder / "evidence"
    evidence.touch()
    os.chown(evidence, DEFAULT_UID, DEFAULT_UID)
    env = {
        "HOME": str(home),
        "POD_WORKER_DATA": str(state),
        "POD_WORKER_WORK_DIR": "",  # as unset: an empty value is none
        "POD_WORKER_SPOOL_DIR": "",
        "PYTHONPATH": path,
        "PYTHON_LEAK_EVIDENCE": str(evidence),
    }
    completed = running.submit("synthetic", {"stages": 1})
    failed = running.submit("synthetic", {"stages": 1, "fail_at": 1})
    with running.worker("rooted", interpreter=interpreter, **env) as worker:
        running.wait_status(completed, "COMPLETED")
        running.wait_status(failed, "FAILED")
        assert "runs work under user pod-worker-run" in worker.log_text()
        query = {"runId": failed, "type": {"$in": ["ai.run.stage_failed", "ai.run.failed"]}}
        wait_for(lambda: running.db.events.count_documents(query) == 2, "the events of child and supervisor")
    assert (state / "work" / failed).stat().st_uid == DEFAULT_UID
    assert json.loads(evidence.read_text())["HOME"] == str(state / "work" / ".home")
    assert list(home.iterdir()) == []
