"""How fast a search of a research run executes programs, beside a scheduler with a barrier and cold starts.

Four measurements, each with its control in turns in the same run: the start of a program (warm and cold), executed
nodes an hour with two slots (model latency 0 s and 1 s), model calls per executed node, and busy slots for short
and long programs mixed. Programs and model are those of `toy_nodes.py`, the control is `barrier_search.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import toy_nodes
from benchmarks.barrier_search import BarrierResult, BarrierSearch, fresh_interpreter
from benchmarks.toy_nodes import NeverStop, open_client
from pod_worker.core.execution import CodeRunner, ExecutionLimits, ExecutionRequest, ExecutionResult
from pod_worker.core.stop_signal import StopSignal
from pod_worker.sandbox.client import SandboxClient
from pod_worker.sandbox.floor import local_floor
from pod_worker.sandbox.layers import read_floor
from pod_worker.sandbox.starting import LocalStarter
from pod_worker.search.choice.stages import STAGE_RULES
from pod_worker.search.search import Search
from pod_worker.search.settings import SearchSettings
from pod_worker.search.task import SearchTask
from pod_worker.search.tree.journal import read_state
from pod_worker.tasks.catalogue import find_task
from pod_worker.tasks.evaluator import PredictionsEvaluator
from pod_worker.tasks.prepare import PreparedTask, prepare_task

SLOTS = 2
BUSY_SLOTS = 4
SLEEPS = (0.1, 1.0)  # 1 s and 10 s, at a tenth
LATENCIES = (0.0, 1.0)
ORIGINAL_CALLS = 15.7  # AI-Scientist-v2, default iterations, per program that a model wrote
ORIGINAL_RATES = {0.0: 1738, 1.0: 337}  # AI-Scientist-v2, executed nodes/h on such a machine, not in this run
# Batches of the control, in turns with our stages: (latency of our search, stages done) -> with proposals, with
# replicas. Half of its nodes are replicas, which need no model; a fifth of ours, so the ratios favour the control.
# Its calls and executions never overlap, so each batch counts for every latency: executions as measured, calls at
# that latency.
CONTROL_BATCHES = {(0.0, 2): (1, 0), (1.0, 2): (0, 1)}
CONTROL_LATENCY = 1.0
LIMITS = ExecutionLimits(wall_seconds=60)


@dataclass(slots=True)
class Bench:
    """What the measurements share."""

    folder: Path
    task: PreparedTask
    runner: CodeRunner

    def fresh_folder(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(mode=0o711)
        return folder


@dataclass(slots=True)
class TimedRunner:
    """A runner that notes when each execution began and ended."""

    inner: CodeRunner
    spans: list[tuple[float, float]] = field(default_factory=list)

    @property
    def layers(self) -> tuple[str, ...]:
        return self.inner.layers

    def execute(self, request: ExecutionRequest, stop: StopSignal) -> ExecutionResult:
        began = time.perf_counter()
        try:
            return self.inner.execute(request, stop)
        finally:
            self.spans.append((began, time.perf_counter()))

    def remove(self, folder: Path) -> None:
        self.inner.remove(folder)


def measure(starts: int, cold_starts: int, nodes: int) -> dict[str, Any]:
    floor, _ = local_floor()
    with tempfile.TemporaryDirectory(prefix="pod_worker_bench_") as name:
        folder = Path(name)
        folder.chmod(0o711)
        task = prepare_task(find_task("wine"), 1, folder / "task")
        began = time.perf_counter()
        with SandboxClient(LocalStarter(), read_floor(floor or "default")) as runner:
            bench = Bench(folder, task, runner)
            ready = time.perf_counter() - began
            found = {
                "sandbox": {"ready_s": round(ready, 1), "layers": list(runner.layers)},
                "start": start_times(bench, starts, cold_starts),
                "rates": all_rates(bench),
                "busy": busy_slots(bench, nodes),
                "load": round(os.getloadavg()[0], 1),
            }
    return found


# ── start of a program ──────────────────────────────────────────────────────────────────────────────────────


def start_times(bench: Bench, starts: int, cold_starts: int) -> dict[str, Any]:
    """From the request to the result of a program that only imports; cold and warm in turns."""
    folder = bench.fresh_folder("start")
    (folder / "solution.py").write_text(toy_nodes.IMPORTS)
    request = ExecutionRequest(folder=folder, argv=("solution.py",), limits=LIMITS)
    warm: list[float] = []
    cold: list[float] = []
    for _ in range(cold_starts):
        cold.append(_seconds_of_cold_start(folder))
        for _ in range(-(-starts // cold_starts)):
            began = time.perf_counter()
            result = bench.runner.execute(request, NeverStop())
            warm.append(time.perf_counter() - began)
            assert result.is_ok, result.output
    return {
        "warm": len(warm),
        "warm_p50_ms": round(statistics.median(warm) * 1e3, 1),
        "warm_p95_ms": round(statistics.quantiles(warm, n=20)[-1] * 1e3, 1),
        "cold": len(cold),
        "cold_p50_ms": round(statistics.median(cold) * 1e3, 1),
        "ratio": round(statistics.median(cold) / statistics.median(warm), 1),
    }


def _seconds_of_cold_start(folder: Path) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "solution.py"], cwd=folder, check=True)
    return time.perf_counter() - began


# ── executed nodes an hour ──────────────────────────────────────────────────────────────────────────────────


def all_rates(bench: Bench) -> list[dict[str, Any]]:
    """Both latencies, each beside all batches of the control."""
    control = BarrierSearch(
        folder=bench.fresh_folder("control"),
        start=fresh_interpreter(bench.task.public),
        evaluator=PredictionsEvaluator(bench.task),
        program=toy_nodes.toy_program,
        slots=SLOTS,
        latency_seconds=CONTROL_LATENCY,
    )
    rounds = list[BarrierResult]()
    ours = [search_stages(bench, latency, control, rounds) for latency in LATENCIES]
    return [_rates(each, rounds) for each in ours]


@dataclass(frozen=True, slots=True)
class TimedSearch:
    latency: float
    folder: Path
    seconds: float
    calls: int


def search_stages(
    bench: Bench, latency: float, control: BarrierSearch, rounds: list[BarrierResult]
) -> TimedSearch:
    """All four stages with their default iterations; batches of the control in between."""
    folder = bench.fresh_folder(f"search-{latency:g}")
    table = toy_nodes.replies(latency)
    with closing(open_client(folder / "llm", table, NeverStop())) as client:
        search = Search(
            folder=folder,
            task=_search_task(bench.task),
            idea=toy_nodes.IDEA,
            settings=SearchSettings(seed=1, slots=SLOTS, limits=LIMITS),
            client=client,
            runner=bench.runner,
            evaluator=PredictionsEvaluator(bench.task),
            stop=NeverStop(),
        )
        seconds = 0.0
        for number, stage in enumerate(STAGE_RULES, 1):
            began = time.perf_counter()
            search.run_stage(stage)
            seconds += time.perf_counter() - began
            if batches := CONTROL_BATCHES.get((latency, number)):
                rounds.append(control.run(*batches, first=len(rounds) * 1_000))
        calls = client.total().calls
    return TimedSearch(latency, folder, seconds, calls)


def _rates(ours: TimedSearch, rounds: Sequence[BarrierResult]) -> dict[str, Any]:
    latency, calls = ours.latency, ours.calls
    executed = [node for node in read_state(ours.folder).nodes.values() if node.outcome is not None]
    assert all(node.is_scored for node in executed), {node.id: node.error for node in executed}
    control_nodes = sum(each.nodes for each in rounds)
    control_rate = control_nodes / sum(each.seconds_with(latency) for each in rounds) * 3600
    rate = len(executed) / ours.seconds * 3600
    return {
        "latency_s": latency,
        "nodes": len(executed),
        "replicas": sum(node.is_replica for node in executed),
        "seconds": round(ours.seconds, 2),
        "per_hour": round(rate),
        "control_nodes": control_nodes,
        "control_per_hour": round(control_rate),
        "ratio": round(rate / control_rate, 2),
        "original_per_hour": ORIGINAL_RATES[latency],
        "beside_original": round(rate / ORIGINAL_RATES[latency], 1),
        "calls": calls,
        "calls_per_node": round(calls / len(executed), 2),
        "calls_per_written_node": round(calls / sum(not node.is_replica for node in executed), 2),
    }


# ── busy slots ──────────────────────────────────────────────────────────────────────────────────────────────


def busy_slots(bench: Bench, nodes: int) -> dict[str, Any]:
    """Programs that wait, four slots; the control has a barrier and the same warm starts."""
    spans, whole = _our_spans(bench, nodes)
    control = TimedRunner(bench.runner)
    barrier = BarrierSearch(
        folder=bench.fresh_folder("busy-control"),
        start=_warm_start(bench.task.public, control),
        evaluator=PredictionsEvaluator(bench.task),
        program=lambda number: toy_nodes.sleeper_program(number, SLEEPS),
        slots=BUSY_SLOTS,
        latency_seconds=0.0,
    )
    barrier.run(nodes // BUSY_SLOTS // 4, 0)
    return {
        "nodes": len(spans),
        "slots": BUSY_SLOTS,
        "sleeps_s": list(SLEEPS),
        "share": round(_busy_share(spans, _last_start(spans)), 3),
        "share_with_end_of_stage": round(_busy_share(whole, max(end for _, end in whole)), 3),
        "control_share": round(_busy_share(control.spans, _last_start(control.spans)), 3),
    }


def _our_spans(bench: Bench, nodes: int) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """The executions of a long stage that a model wrote, and those with its replicas."""
    folder = bench.fresh_folder("busy")
    timed = TimedRunner(bench.runner)
    with closing(open_client(folder / "llm", toy_nodes.replies(0.0, SLEEPS), NeverStop())) as client:
        search = Search(
            folder=folder,
            task=_search_task(bench.task),
            idea=toy_nodes.IDEA,
            settings=SearchSettings(seed=1, slots=BUSY_SLOTS, limits=LIMITS),
            client=client,
            runner=timed,
            evaluator=PredictionsEvaluator(bench.task),
            stop=NeverStop(),
        )
        search.run_stage("Stage_1")
        timed.spans.clear()
        search.run_stage("Stage_4", nodes)
    whole = sorted(timed.spans)
    return whole[:nodes], whole


def _warm_start(task_folder: Path, runner: CodeRunner) -> Any:
    def start(folder: Path, seed: int) -> None:
        request = ExecutionRequest(
            folder=folder,
            argv=("solution.py",),
            limits=LIMITS,
            environment={"TASK_DIR": str(task_folder), "OUTPUT_DIR": str(folder / "out"), "RUN_SEED": str(seed)},
            readable=(task_folder,),
            seed=seed,
        )
        result = runner.execute(request, NeverStop())
        assert result.is_ok, result.output

    return start


def _last_start(spans: Sequence[tuple[float, float]]) -> float:
    return max(began for began, _ in spans)


def _busy_share(spans: Sequence[tuple[float, float]], until: float) -> float:
    """Share of slot time, from the first start to `until`, in which a program ran."""
    first = min(began for began, _ in spans)
    busy = sum(min(ended, until) - began for began, ended in spans)
    return busy / (BUSY_SLOTS * (until - first))


def _search_task(task: PreparedTask) -> SearchTask:
    return SearchTask(metric=task.task.metric, folder=task.public, facts=task.facts, denied=task.denied_paths)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--starts", type=int, default=60, help="warm starts")
    parser.add_argument("--cold-starts", type=int, default=2)
    parser.add_argument("--nodes", type=int, default=100, help="programs that wait, in four slots")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    began = time.perf_counter()
    found = measure(arguments.starts, arguments.cold_starts, arguments.nodes)
    found["seconds"] = round(time.perf_counter() - began, 1)
    print(json.dumps(found, indent=None if arguments.json else 1))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
    main()
