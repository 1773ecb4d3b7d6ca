"""The control of the research benchmarks: a scheduler with a barrier.

A batch has one program for each slot, as in AI-Scientist-v2. The programs are proposed one call after another. All
run, and the batch waits for the slowest. Then each outcome is analysed, one call after another.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pod_worker.core.research.evaluation import NodeScore
from pod_worker.search.ports import Evaluator

Start = Callable[[Path, int], None]  # runs solution.py of the folder to its end


@dataclass(frozen=True, slots=True)
class BarrierResult:
    nodes: int
    calls: int
    seconds: float
    model_seconds: float  # of these: nothing else happens while the model answers

    def seconds_with(self, latency: float) -> float:
        """How long the same batches take with another latency: calls and executions never overlap."""
        return self.seconds - self.model_seconds + self.calls * latency


@dataclass(frozen=True, slots=True, kw_only=True)
class BarrierSearch:
    folder: Path
    start: Start
    evaluator: Evaluator
    program: Callable[[int], str]
    slots: int
    latency_seconds: float

    def run(self, batches: int, replica_batches: int, first: int = 0) -> BarrierResult:
        """Batches with model calls, then batches of replicas, which need none."""
        began, calls, waited = time.perf_counter(), 0, 0.0
        for batch in range(batches + replica_batches):
            numbers = [first + batch * self.slots + slot for slot in range(self.slots)]
            is_written = batch < batches
            if is_written:
                waited += self._ask(len(numbers))
            with ThreadPoolExecutor(self.slots) as pool:
                list(pool.map(self._execute, numbers))
            if is_written:
                waited += self._ask(len(numbers))
                calls += 2 * len(numbers)
        nodes = (batches + replica_batches) * self.slots
        return BarrierResult(nodes, calls, time.perf_counter() - began, waited)

    def _ask(self, calls: int) -> float:
        """One call after another; how long they took."""
        began = time.perf_counter()
        for _ in range(calls):
            time.sleep(self.latency_seconds)
        return time.perf_counter() - began

    def _execute(self, number: int) -> NodeScore:
        folder = self.folder / f"node-{number}"
        (folder / "out").mkdir(parents=True)
        (folder / "solution.py").write_text(self.program(number))
        self.start(folder, number)
        return self.evaluator.score(folder)


def fresh_interpreter(task_folder: Path) -> Start:
    """One thread of torch, like a program of the sandbox with a slot of one core."""

    def start(folder: Path, seed: int) -> None:
        environment = {
            **os.environ,
            "TASK_DIR": str(task_folder),
            "OUTPUT_DIR": str(folder / "out"),
            "RUN_SEED": str(seed),
            "OMP_NUM_THREADS": "1",
            "MPLBACKEND": "Agg",
        }
        command = [sys.executable, "solution.py"]
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)

    return start
