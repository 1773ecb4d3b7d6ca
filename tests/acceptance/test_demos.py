"""The two demos, as a newcomer runs them: their exit code is the truth of what they print."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.timeout(420)  # on a busy machine the demo takes minutes


def demo(*words: str) -> tuple[int, dict[str, bool], str]:
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("MONGODB", "MINIO", "RUNPOD"))
    }
    done = subprocess.run(
        [sys.executable, "-m", "pod_worker", *words, "--json"],
        capture_output=True,
        text=True,
        timeout=400,
        env={**clean, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "[]"
    return done.returncode, {each["check"]: each["ok"] for each in json.loads(last)}, done.stderr


@pytest.mark.usefixtures("training_libraries")
def test_the_demo_trains_a_real_model_and_loses_no_event() -> None:
    code, checks, said = demo("demo", "--steps", "12")
    assert code == 0, said
    assert checks["training run"]
    assert checks["held-out loss"]
    assert checks["command continued after a kill"]
    assert checks["events"]
    assert len(checks) >= 10


def test_a_run_is_executed_by_a_worker_in_a_rented_pod_and_the_pod_is_given_back() -> None:
    code, checks, said = demo("demo-pods")
    assert code == 0, said
    assert checks == {"run": True, "executed in the pod": True, "events arrived": True, "pod terminated": True}
