"""`runs replay`: from published artifacts to a table and an exit code."""

from __future__ import annotations

import hashlib
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from pod_worker.cli.runs.search import replay
from pod_worker.sandbox.client import SandboxClient
from pod_worker.stages.research.params import complete, parse
from pod_worker.stages.research.search_session import split_seed
from pod_worker.tasks.catalogue import find_task
from pod_worker.tasks.prepare import prepare_task
from tests.cli.conftest import Cli

Db = Database[dict[str, Any]]
PARAMS = complete(
    {
        "idea": {
            "Title": "Do constants help?",
            "Short Hypothesis": "They do not.",
            "Abstract": "We predict one class.",
            "Experiments": ["a constant"],
            "Risk Factors and Limitations": ["none"],
        },
        "task": "wine",
        "node_seconds": 30,
    }
)
PROGRAM = b"""
import os
import numpy as np
read = lambda name: np.load(os.path.join(os.environ["TASK_DIR"], name))["x"]
rng = np.random.default_rng(int(os.environ["RUN_SEED"]))
search, hidden = (rng.integers(0, 3, len(read(name))) for name in ("search.npz", "hidden_inputs.npz"))
np.savez(os.path.join(os.environ["OUTPUT_DIR"], "predictions.npz"), search=search, hidden=hidden)
"""


@pytest.fixture
def run(cli: Cli, publish: Any, control_plane: str, db: Db, tmp_path: Path) -> Any:
    """Publishes a run of one stage with these recorded scores."""
    prepared = prepare_task(find_task("wine"), split_seed(parse(PARAMS), "run1"), tmp_path / "task")
    db.runs.update_one({"_id": "run1"}, {"$set": {"pipeline": "experiment", "params": PARAMS}})
    publish("Stage_1/best_solution.py", PROGRAM)
    attempts = iter(range(2, 100))

    def put(search: float, hidden: float, digest: str = prepared.digest) -> None:
        node = {"node_id": "Stage_1-001", "code": hashlib.sha256(PROGRAM).hexdigest(), "seed": 7}
        stage = {
            "stage": "Stage_1",
            "best": "Stage_1-001",
            "nodes": [{**node, "search": search, "hidden": hidden}],
        }
        empty = {"stage": "Stage_2", "best": None, "nodes": []}
        task = {"name": "wine", "digest": digest}
        results = {"run_id": "run1", "seed": 0, "task": task, "stages": [stage, empty]}
        publish("reproduction/results.json", json.dumps(results).encode(), next(attempts))

    return put


def test_equal_scores_end_well_and_others_do_not(
    cli: Cli, run: Any, code_runner: SandboxClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "_sandbox", lambda _store: nullcontext(code_runner))
    run(search=0.5, hidden=0.25)
    other = cli("runs", "replay", "run1", "--json")
    assert other.code == 1
    assert "Stage_1: not the recorded scores" in other.err
    assert "environment.txt" in other.err
    assert [each["is_equal"] for each in other.json] == [False, False]
    search, hidden = (each["again"] for each in other.json)

    run(search=search, hidden=hidden)
    same = cli("runs", "replay", "run1")
    assert same.code == 0, same.err
    assert "all scores are equal within 1e-09" in same.err
    assert [line.split("\t") for line in same.out.splitlines()] == [
        ["stage", "node", "score", "recorded", "again", "equal"],
        ["Stage_1", "Stage_1-001", "search", f"{search:.9g}", f"{search:.9g}", "yes"],
        ["Stage_1", "Stage_1-001", "hidden", f"{hidden:.9g}", f"{hidden:.9g}", "yes"],
    ]

    run(search=search, hidden=hidden + 1e-6)
    assert cli("runs", "replay", "run1").code == 1
    assert cli("runs", "replay", "run1", "--tolerance", "1e-5").code == 0

    run(search, hidden, digest="0" * 64)
    refused = cli("runs", "replay", "run1")
    assert refused.code == 2
    assert "is not that of the run" in refused.err


def test_what_cannot_be_replayed_is_explained(cli: Cli, db: Db) -> None:
    db.runs.insert_one({"_id": "r", "pipeline": "experiment", "status": "RUNNING", "params": PARAMS})
    db.runs.insert_one({"_id": "t", "pipeline": "training", "status": "COMPLETED"})
    early = cli("runs", "replay", "r")
    assert (early.code, early.out) == (3, "")
    assert "runs watch r" in early.err
    other = cli("runs", "replay", "t")
    assert other.code == 2
    assert "pipeline training" in other.err


def test_a_machine_below_the_floor_is_refused_with_the_setting(
    cli: Cli, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("POD_WORKER_SANDBOX_FLOOR", raising=False)
    monkeypatch.setattr("pod_worker.sandbox.floor.local_floor", lambda: ("files,network", "a closed folder."))
    run(search=0.5, hidden=0.5)
    refused = cli("runs", "replay", "run1")
    assert refused.code == 1
    assert (
        "a closed folder. To accept that for this run, set POD_WORKER_SANDBOX_FLOOR=files,network." in refused.err
    )
