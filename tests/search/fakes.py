"""A model, a sandbox and an evaluator in this process.

A program is Python text whose first line is a JSON object in a comment: what it does when it is "executed". The
model's answers are a pure function of the request.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import random
import shutil
import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pod_worker.core.execution import ExecutionEnd, ExecutionRequest, ExecutionResult
from pod_worker.core.failure import CancelRequested
from pod_worker.core.research.completion import ChatCompletion, CompletionRequest
from pod_worker.core.research.evaluation import NodeScore, RefusalKind, ResultRefusedError
from pod_worker.core.research.idea import Idea
from pod_worker.core.research.measure import Metric
from pod_worker.core.run import Json
from pod_worker.core.stage import StopSignal
from pod_worker.search.pool import JobKind, JobResult, SearchJob, run_job
from pod_worker.search.search import Search
from pod_worker.search.settings import SearchSettings
from pod_worker.search.task import SearchTask
from pod_worker.search.tree.node import SearchNode, derive_seed
from pod_worker.search.tree.state import SearchState

ACCURACY = Metric("accuracy", "higher")
IDEA = Idea(
    title="Smaller is better",
    short_hypothesis="A small model generalises better.",
    abstract="We compare sizes.",
    experiments=("Compare sizes.",),
    risks=("None.",),
)


class Stop:
    def __init__(self) -> None:
        self.event = threading.Event()

    def is_set(self) -> bool:
        return self.event.is_set()

    def check(self) -> None:
        if self.is_set():
            raise CancelRequested


def program(**does: Json) -> str:
    """A program that does this: score, hidden, noise, error, signal, end, refuse, same_proof."""
    return f"# {json.dumps(does, sort_keys=True)}\nvalue = {json.dumps(does, sort_keys=True)!r}\n"


def random_program(request: CompletionRequest) -> dict[str, Json]:
    """A third of the programs fail; scores lie between 0.5 and 1. Every word of the question counts."""
    rng = random.Random(derive_seed(request.operation, request.messages[-1].text, request.facts["seed"]))
    if rng.random() < 0.33 and request.operation != "node.debug":
        return {"error": "ValueError: bad shape", "number": rng.random()}
    return {"score": round(0.5 + rng.random() / 2, 4), "noise": 0.01, "number": rng.random()}


class FakeModel:
    """Answers by `reply`; counts what was paid. With a folder, answered requests are kept there as a cache."""

    def __init__(
        self, reply: Callable[[CompletionRequest], dict[str, Json]] = random_program, folder: Path | None = None
    ) -> None:
        self.reply = reply
        self.folder = folder
        self.requests: list[CompletionRequest] = []
        self.calls: Counter[str] = Counter()
        self.fail: Callable[[CompletionRequest], BaseException | None] = lambda request: None
        self._lock = threading.Lock()

    def complete(self, request: CompletionRequest) -> ChatCompletion:
        with self._lock:
            self.requests.append(request)
            self.calls[request.operation] += 1
        if error := self.fail(request):
            raise error
        value = self._cached(request)
        return ChatCompletion(text=json.dumps(value), value=value, model="fake", is_scripted=True)

    def _cached(self, request: CompletionRequest) -> dict[str, Json]:
        if self.folder is None:
            return self._answer(request)
        text = json.dumps([request.operation, [m.text for m in request.messages], request.sample])
        path = self.folder / hashlib.sha256(text.encode()).hexdigest()
        if not path.exists():
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(self._answer(request)))
            partial.rename(path)
        return json.loads(path.read_text())

    def _answer(self, request: CompletionRequest) -> dict[str, Json]:
        if request.operation == "node.analyse":
            node = request.facts["node"]
            return {"analysis": "Seen.", "insight": f"{node['node_id']} had {node['score']}"}
        if request.operation == "agent.turn":
            return self._turn(request)
        does = self.reply(request)
        if "code" in does:
            return {"plan": "As given.", "change": "given"} | does
        return {"plan": f"Do {does}.", "change": str(does.get("number", ""))[:6], "code": program(**does)}

    def _turn(self, request: CompletionRequest) -> dict[str, Json]:
        """An agent writes the program, runs it, and hands it in."""
        last = request.facts["last"]
        if last is None:
            return agent_action("write", content=program(**self.reply(request)))
        return agent_action("run") if last["action"] == "write" else agent_action("finish", plan="Done.")


def agent_action(action: str, path: str = "solution.py", **fields: Json) -> dict[str, Json]:
    empty = {"thought": "", "content": "", "offset": 0, "plan": "", "change": ""}
    return {**empty, "action": action, "path": path, **fields}


@dataclass
class FakeSandbox:
    """Writes what the program's first line says."""

    executions: list[ExecutionRequest] = field(default_factory=list)
    before: Callable[[ExecutionRequest], None] = lambda request: None
    layers: tuple[str, ...] = ("fake",)

    def execute(self, request: ExecutionRequest, stop: StopSignal) -> ExecutionResult:
        self.executions.append(request)
        self.before(request)
        if stop.is_set():
            return ExecutionResult(end=ExecutionEnd.STOPPED)
        does = json.loads((request.folder / "solution.py").read_text().split("\n")[0][2:])
        proof = "same" if does.get("same_proof") else str(request.seed)
        if "error" in does:
            text = f"Traceback (most recent call last):\n{does['error']}\n"
            return ExecutionResult(end=ExecutionEnd.EXITED, exit_code=1, output=text, seed_proof=proof)
        if "end" in does:
            number = int(does.get("signal", 0)) or None
            return ExecutionResult(end=ExecutionEnd(does["end"]), signal=number, seed_proof=proof)
        noise = random.Random(request.seed).gauss(0, does.get("noise", 0))
        out = Path(request.environment["OUTPUT_DIR"])
        (out / "scores.json").write_text(json.dumps({**does, "noise": noise}))
        return ExecutionResult(end=ExecutionEnd.EXITED, exit_code=0, output="done\n", seed_proof=proof)

    def remove(self, folder: Path) -> None:
        shutil.rmtree(folder)


class FakeEvaluator:
    def score(self, folder: Path) -> NodeScore:
        try:
            does = json.loads((folder / "out" / "scores.json").read_text())
        except FileNotFoundError:
            raise ResultRefusedError(RefusalKind.MISSING, "no scores.json") from None
        if "refuse" in does:
            raise ResultRefusedError(RefusalKind(does["refuse"]), "as the program said")
        if "crash" in does:
            raise ZeroDivisionError("a defect of the evaluator")
        search = does["score"] + does["noise"]
        hidden = None if does.get("self_reported") else does.get("hidden", does["score"]) + does["noise"]
        return NodeScore(search=search, hidden=hidden, is_self_reported=hidden is None)


class VirtualPool:
    """Jobs end in the order of their virtual end; `seconds` gives the length of each."""

    def __init__(self, seconds: Callable[[SearchJob], float]) -> None:
        self.now = 0.0
        self.busy: dict[JobKind, float] = defaultdict(float)
        self.executed: list[SearchJob] = []
        self._seconds = seconds
        self._jobs: list[tuple[float, int, SearchJob]] = []
        self._count = 0

    def submit(self, job: SearchJob) -> None:
        seconds = self._seconds(job)
        self.busy[job.kind] += seconds
        if job.kind is JobKind.EXECUTE:
            self.executed.append(job)
        self._count += 1
        heapq.heappush(self._jobs, (self.now + seconds, self._count, job))

    def wait(self, timeout_seconds: float) -> JobResult | None:
        if not self._jobs:
            raise AssertionError("the scheduler waits and nothing is in flight")
        self.now, _, job = heapq.heappop(self._jobs)
        return run_job(job)


class RecordedEvents:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.progresses = []

    def node_created(self, node: SearchNode) -> None:
        self.lines.append(f"created {node.id}")

    def node_executing(self, node: SearchNode) -> None:
        self.lines.append(f"executing {node.id}")

    def node_completed(self, node: SearchNode) -> None:
        self.lines.append(f"completed {node.id}")

    def best_selected(self, node: SearchNode) -> None:
        self.lines.append(f"best {node.id}")

    def progress(self, progress) -> None:
        self.progresses.append(progress)


def make_search(folder: Path, **changes) -> Search:
    """A search with fakes; `seconds` makes it a virtual one, without threads."""
    settings = changes.pop("settings", None) or SearchSettings(**changes.pop("set", {}))
    seconds = changes.pop("seconds", lambda job: 1.0)
    parts = {
        "folder": folder,
        "task": SearchTask(metric=ACCURACY, folder=folder / "task", facts={"name": "toy", "title": "Toy"}),
        "idea": IDEA,
        "settings": settings,
        "client": FakeModel(),
        "runner": FakeSandbox(),
        "evaluator": FakeEvaluator(),
        "stop": Stop(),
        "new_pool": lambda: VirtualPool(seconds),
    }
    return Search(**parts | changes)


def tree_of(state: SearchState) -> list[object]:
    """Everything about a tree that must not depend on time or on restarts."""
    nodes: list[object] = [
        (
            node.id, node.operation, node.parent, node.seed, node.code, node.plan, node.declined, node.outcome,
            node.search_score, node.hidden_score, node.insight, node.calls,
        )
        for node in state.nodes.values()
    ]  # fmt: skip
    return [*nodes, *state.selections.values(), *state.reasons.items()]
