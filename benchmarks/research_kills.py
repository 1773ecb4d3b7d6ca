"""Kills an experiment run with SIGKILL at random moments, resumes it, and compares it with an uninterrupted one.

The run is complete: every stage of the pipeline `experiment`, scripted model, task wine, real sandbox. Each
attempt is a process of its own; the files of the run are all that one attempt leaves to the next.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.folder_context import FolderRun
from benchmarks.toy_nodes import IDEA
from pod_worker.core.execution import CodeRunner
from pod_worker.core.model_access import ModelAccess
from pod_worker.core.run import Checkpoint, Json
from pod_worker.llm.spending.ledger import CallRow, CallStatus, ReserveRow, read_rows
from pod_worker.sandbox.client import SandboxClient
from pod_worker.sandbox.floor import local_floor
from pod_worker.sandbox.layers import read_floor
from pod_worker.sandbox.starting import LocalStarter
from pod_worker.search.tree.journal import read_state
from pod_worker.stages.research.experiment import stages_of

PARAMS: dict[str, Json] = {
    "idea": IDEA.to_json(),
    "task": "wine",
    "model": "scripted",
    "slots": 1,
    "split_key": "kills",
    "literature": "recorded",
    "stage_1_iterations": 4,
    "stage_2_iterations": 2,
    "stage_3_iterations": 2,
    "stage_4_iterations": 2,
    "drafts": 2,
    "replicas": 2,
    "reviews": 1,
    "node_seconds": 60,
}
MODULES = ("numpy", "sklearn.ensemble", "sklearn.svm", "matplotlib.pyplot")
START_SECONDS = 2.0  # of the interpreter
ATTEMPT_SECONDS = 600.0
ATTEMPTS_LIMIT = 100


class StageContext(FolderRun):
    """One stage; the saved state of each stage is a file."""

    model_access = ModelAccess(provider="scripted")

    def __init__(self, root: Path, stage: str, runner: CodeRunner) -> None:
        super().__init__(root, PARAMS)
        self.stage, self._runner = stage, runner
        self._states = root / "states"
        self._states.mkdir(exist_ok=True)
        saved = {path.stem: json.loads(path.read_text()) for path in self._states.glob("*.json")}
        checkpoints = {name: Checkpoint(name, each["done"], each["state"]) for name, each in saved.items()}
        self.run = replace(self.run, pipeline="experiment", queue="experiment", checkpoints=checkpoints)

    @property
    def is_done(self) -> bool:
        saved = self.run.checkpoints.get(self.stage)
        return saved is not None and saved.done

    def open_sandbox(self) -> CodeRunner:
        return self._runner

    def checkpoint(self, state: dict[str, Json]) -> None:
        self.save(state, done=False)

    def save(self, state: dict[str, Json], *, done: bool) -> None:
        partial = self._states / f"{self.stage}.tmp"
        partial.write_text(json.dumps({"done": done, "state": state}))
        partial.replace(self._states / f"{self.stage}.json")

    @property
    def saved_state(self) -> dict[str, Json]:
        path = self._states / f"{self.stage}.json"
        found: dict[str, Json] = json.loads(path.read_text())["state"] if path.is_file() else {}
        return found


def attempt(root: Path) -> None:
    """Every stage that is not done."""
    floor, _ = local_floor()
    with ExitStack() as stack:
        runner = stack.enter_context(SandboxClient(LocalStarter(MODULES), read_floor(floor or "default")))
        for stage in stages_of(PARAMS):
            context = StageContext(root, stage.name, runner)
            if not context.is_done:
                context.save(stage.run(context), done=True)


@dataclass(slots=True)
class Kills:
    count: int = 0
    by_stage: Counter[str] = field(default_factory=Counter)
    lost_nodes: int = 0
    runs: int = 0
    different_trees: int = 0
    answered_twice: int = 0
    asked_again: int = 0  # requests in flight at a kill


def drill(kills: int, seed: int, seconds: float) -> dict[str, Any]:
    rng, found = random.Random(seed), Kills()
    with tempfile.TemporaryDirectory(prefix="pod_worker_kills_") as name:
        root = Path(name)
        root.chmod(0o711)
        began = time.perf_counter()
        _run_to_the_end(_run_folder(root, "uninterrupted"))
        whole = time.perf_counter() - began
        expected = _tree(root / "uninterrupted")
        end = time.perf_counter() + seconds
        while found.count < kills and time.perf_counter() < end:
            folder = _run_folder(root, f"killed-{found.runs}")
            _kill_often(folder, kills, rng, whole, found)
            found.runs += 1
            found.different_trees += _tree(folder) != expected
            _count_payments(folder, found)
    return {
        "kills": found.count,
        "by_stage": dict(found.by_stage),
        "runs": found.runs,
        "uninterrupted_s": round(whole, 1),
        "nodes": len(expected),
        "lost_nodes": found.lost_nodes,
        "different_trees": found.different_trees,
        "answered_twice": found.answered_twice,
        "asked_again": found.asked_again,
    }


def _kill_often(folder: Path, kills: int, rng: random.Random, whole: float, found: Kills) -> None:
    finished: dict[str, Any] = {}
    for _ in range(ATTEMPTS_LIMIT):
        process = _start(folder)
        try:
            # An attempt that resumes is shorter than the whole run: early moments, or few kills fall into one.
            moment = rng.uniform(START_SECONDS, max(0.8 * whole, 2 * START_SECONDS))
            code = process.wait(moment if found.count < kills else ATTEMPT_SECONDS)
            if code:
                raise SystemExit(f"an attempt ended with code {code}")
            return
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        found.count += 1
        found.by_stage[_stage_of(folder)] += 1
        now = _tree(folder)
        found.lost_nodes += sum(now.get(name) != node for name, node in finished.items())
        finished = now
    raise SystemExit(f"the run did not end within {ATTEMPTS_LIMIT} attempts")


def _start(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "benchmarks.research_kills", "--attempt", str(folder)])


def _run_to_the_end(folder: Path) -> None:
    if code := _start(folder).wait(ATTEMPT_SECONDS):
        raise SystemExit(f"the uninterrupted run ended with code {code}")


def _run_folder(root: Path, name: str) -> Path:
    folder = root / name
    folder.mkdir(mode=0o711)
    return folder


def _research(folder: Path) -> Path:
    return folder / "pod" / "research"


def _stage_of(folder: Path) -> str:
    done = sum(bool(json.loads(path.read_text())["done"]) for path in folder.glob("states/*.json"))
    return stages_of(PARAMS)[done].name


def _tree(folder: Path) -> dict[str, Any]:
    """Every node with an outcome, without its times."""
    if not (_research(folder) / "journal.ndjson").exists():
        return {}
    return {
        node.id: (
            node.operation, node.parent, node.replica_of, node.seed, node.code, node.outcome, node.search_score,
            node.hidden_score,
        )
        for node in read_state(_research(folder)).nodes.values()
        if node.outcome is not None
    }  # fmt: skip


def _count_payments(folder: Path, found: Kills) -> None:
    rows = list(read_rows(_research(folder) / "llm" / "ledger.ndjson"))
    answered = Counter(row.key for row in rows if isinstance(row, CallRow) and row.status is CallStatus.ANSWERED)
    asked = Counter(row.key for row in rows if isinstance(row, ReserveRow))
    found.answered_twice += sum(count - 1 for count in answered.values())
    found.asked_again += sum(count - 1 for count in asked.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1800, help="no run begins later")
    parser.add_argument("--attempt", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.attempt:
        attempt(arguments.attempt)
    else:
        print(json.dumps(drill(arguments.kills, arguments.seed, arguments.seconds), indent=1))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
    main()
