"""SIGKILL at random moments of a job that saves checkpoints.

POD_WORKER_KILLS=50 is the full form, POD_WORKER_KILLS_SEED another choice of moments.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

KILLS = int(os.environ.get("POD_WORKER_KILLS", "3"))
SEED = int(os.environ.get("POD_WORKER_KILLS_SEED", "1"))
STEPS = 12 * KILLS


def test_a_killed_job_has_the_result_of_one_that_was_not(tmp_path: Path) -> None:
    words = [str(tmp_path), str(SEED), str(KILLS), str(STEPS)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.stages.killed_command", *words],
        capture_output=True,
        text=True,
        timeout=120 + 5 * KILLS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print(json.dumps(found))
    assert (found["wrong_results"], found["half_snapshots"]) == (0, 0), found
    assert found["kills"] >= KILLS
    assert found["resumed"] >= 1, "no attempt resumed: the test has lost its subject"
