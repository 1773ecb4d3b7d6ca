"""A research run on a real stack: its worker dies, another one on another pod goes on."""

from __future__ import annotations

import signal
import sys
from collections import Counter
from pathlib import Path
from shutil import which
from typing import Any

import pytest

from pod_worker.sandbox.layers import DEFAULT_FLOOR
from tests.acceptance.local_stack import Running, wait_for
from tests.sandbox.support import is_open

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not which("pdflatex"), reason="papers need pdflatex; fix: make latex"),
]
IDEA = {
    "Title": "Does standardizing the features help small models?",
    "Short Hypothesis": "Standardized features help linear models on small tables.",
    "Abstract": "We compare models with and without standardized features.",
    "Experiments": ["a linear model", "with standardized features"],
    "Risk Factors and Limitations": ["the table is small"],
}
SMALL: dict[str, Any] = {
    "idea": IDEA,
    "task": "wine",
    "model": "scripted",
    "stage_1_iterations": 3,
    "stage_2_iterations": 4,
    "stage_3_iterations": 2,
    "stage_4_iterations": 2,
    "replicas": 2,
    "node_seconds": 60,
}


def floor() -> dict[str, str]:
    """Where the interpreter is closed to other users, programs keep the worker's user."""
    return {} if is_open(Path(sys.executable)) else {"POD_WORKER_SANDBOX_FLOOR": ",".join(DEFAULT_FLOOR)}


def finished_nodes(running: Running, run_id: str) -> Counter[str]:
    found = running.db.events.find({"runId": run_id, "type": "ai.node.completed"})
    return Counter(str(event["data"]["node_id"]) for event in found)


def test_another_pod_finishes_an_experiment_whose_worker_was_killed_in_its_second_stage(running: Running) -> None:
    run_id = running.submit("experiment", SMALL)
    with running.worker("first", **floor()) as first:
        wait_for(
            lambda: [name for name in finished_nodes(running, run_id) if name.startswith("Stage_2")],
            "a node of the second stage",
            150,
        )
        first.send(signal.SIGKILL)
        first.wait()
    before = finished_nodes(running, run_id)

    with running.worker("second", "--max-runs", "1", **floor()) as second:
        run = running.wait_status(run_id, "AWAITING_HUMAN", "FAILED", seconds=240)
        assert second.wait() == 0, second.log_text()
    assert run["status"] == "AWAITING_HUMAN", run.get("errorMessage")
    assert run["attempt"] == 2
    states = {name: saved["state"] for name, saved in run["checkpoints"].items()}
    assert {"Stage_1", "Stage_2", "Stage_3", "Stage_4"} <= states.keys()
    after = finished_nodes(running, run_id)
    first_stage = {name: count for name, count in after.items() if name.startswith("Stage_1")}
    assert first_stage == {name: 1 for name in before if name.startswith("Stage_1")}, "no finished stage again"
    assert states["Stage_4"]["cost"]["calls"] > states["Stage_1"]["cost"]["calls"], "the counters go on"
    assert states["Stage_4"]["is_scripted"] is True
    assert states["validation"]["verdict"] in ("pass", "fail")
    assert all(states["validation"]["checks"].values()), states["validation"]["checks"]
    kinds = {row["kind"] for row in running.db.artifacts.find({"runId": run_id})}
    assert {"paper", "report", "figure", "code"} <= kinds
    assert (running.db.validations.find_one({"_id": f"{run_id}:auto"}) or {})["verdict"]
    table = running.cli("runs", "cost", run_id).stdout
    assert "node.analyse" in table
    assert "together" in table
