"""The files, task, models and sandbox of one attempt, opened once."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pod_worker.core.execution import CodeRunner, ExecutionLimits
from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.research.idea import Idea, read_idea
from pod_worker.core.run import Json
from pod_worker.core.stage import Context
from pod_worker.llm.client import MeteredClient
from pod_worker.llm.spending.limits import SpendCaps
from pod_worker.paper.typesetting.latex import LatexTools, check_toolchain
from pod_worker.search.ports import Evaluator
from pod_worker.search.search import Search
from pod_worker.search.settings import SearchSettings
from pod_worker.search.task import SearchTask
from pod_worker.search.tree.journal import read_code, read_state
from pod_worker.stages.language_models import cost_of, open_models
from pod_worker.stages.research.gpu_slots import slots_of, visible_gpus
from pod_worker.stages.research.params import ExperimentParams
from pod_worker.stages.research.record import TASK_FOLDER, RunRecord
from pod_worker.stages.research.reporting import SearchReporter
from pod_worker.tasks.catalogue import find_task
from pod_worker.tasks.evaluator import PredictionsEvaluator
from pod_worker.tasks.prepare import PreparedTask, prepare_task
from pod_worker.tasks.self_reported import SelfReportedEvaluator

SAVE_SECONDS = 180.0
GB = 10**9
DATA_FOLDER = "task-data"  # a task that was uploaded as a data set
TASK_FILE = "task.json"  # what the run's data was when it started


@dataclass(slots=True)
class SearchSession:
    """Everything that the stages of one attempt share."""

    params: ExperimentParams
    record: RunRecord
    task: PreparedTask
    client: MeteredClient
    model: str
    runner: CodeRunner
    tools: LatexTools
    monotonic: Callable[[], float] = time.monotonic
    _saved_at: float = field(init=False)

    def __post_init__(self) -> None:
        self._saved_at = self.monotonic()

    @property
    def folder(self) -> Path:
        return self.record.folder

    @property
    def idea(self) -> Idea:
        return read_idea(self.params.idea)

    def search(self, context: Context) -> Search:
        params, prepared = self.params, self.task
        slots, gpus = slots_of(params.slots, visible_gpus())
        reporter = SearchReporter(context, prepared.task.metric, self.client, lambda: self.save_if_due(context))
        return Search(
            folder=self.folder,
            task=search_task(prepared),
            idea=self.idea,
            settings=SearchSettings(
                seed=params.seed,
                slots=slots,
                gpus=gpus,
                num_drafts=params.drafts,
                debug_probability=params.debug_probability,
                max_debug_depth=params.debug_depth,
                seeds=params.replicas,
                band_floor=resolution(prepared),
                hosts=tuple(params.hosts),
                agent_turns=params.agent_turns if params.executor == "agent" else 0,
                limits=node_limits(params),
            ),
            client=self.client,
            runner=self.runner,
            evaluator=evaluator_of(prepared),
            stop=context.stop,
            events=reporter,
        )

    def write_program(self, node_id: str, name: str) -> Path:
        """The program of a node as the journal has it.

        The copy in the node's folder was writable for the program.
        """
        code = read_state(self.folder).nodes[node_id].code
        assert code is not None  # only nodes with a program become the best one
        target = self.folder / "programs" / f"{name}.py"
        target.parent.mkdir(exist_ok=True)
        target.write_text(read_code(self.folder, code))
        return target

    def save_if_due(self, context: Context) -> None:
        if self.monotonic() - self._saved_at >= SAVE_SECONDS:
            self.save(context)

    def save(self, context: Context) -> None:
        """A copy of the record for other pods, named in the saved state of the stage."""
        self.record.save(context)
        self._saved_at = self.monotonic()
        context.checkpoint({**context.saved_state, **self.state()})

    def state(self) -> dict[str, Json]:
        return {"record": self.record.latest, "cost": cost_of(self.client)}


def open_session(context: Context, params: ExperimentParams) -> SearchSession:
    """Everything is checked here before a model is paid. Raises RunError."""
    task = find_task(task_place(context, params.task))
    record = RunRecord(context)
    record.open(context)
    caps = SpendCaps(
        usd=params.max_usd, tokens=params.max_tokens, calls=params.max_calls, wall_seconds=params.max_hours * 3600
    )
    tools = check_toolchain()
    client, model = open_models(context, params.model, caps, record.folder / "llm")
    prepared = prepare_task(task, split_seed(params, context.run.id), record.folder / TASK_FOLDER)
    _require_same_data(record.folder / TASK_FILE, prepared)
    runner = context.open_sandbox()
    context.log(f"sandbox: {', '.join(runner.layers)}", layers=list(runner.layers))
    if params.hosts:
        context.log(f"programs may reach {', '.join(params.hosts)}", "warning")
    return SearchSession(params, record, prepared, client, model, runner, tools)


def task_place(context: Context, task: str) -> str:
    """The name or the folder of a task; a data set is copied to this pod first."""
    if not task.startswith("data/") or Path(task).is_dir():
        return task
    return str(context.fetch_data(task, context.work_dir / DATA_FOLDER))


def split_seed(params: ExperimentParams, run_id: str) -> int:
    """A seed that no program can guess.

    A program that could would make the rows of a generated task again, hidden labels among them.
    """
    text = f"{params.split_key or run_id}:{params.seed}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest())


def _require_same_data(path: Path, prepared: PreparedTask) -> None:
    """Scores of different data cannot be compared.

    The next attempt may run on another pod, where the folder of a task holds other files.
    """
    found = {"task": prepared.task.name, "digest": prepared.digest}
    if not path.exists():
        path.write_text(json.dumps(found))
        return
    started = json.loads(path.read_text())
    if started != found:
        raise RunError(
            FailureCode.INVALID_INPUT,
            f"the data of task {prepared.task.name} is not what this run started with "
            f"(digest {found['digest'][:12]}, at the start {str(started.get('digest'))[:12]}). "
            "Restore the data, or submit a new run.",
        )


def search_task(prepared: PreparedTask) -> SearchTask:
    return SearchTask(
        metric=prepared.task.metric,
        folder=prepared.public,
        facts=prepared.facts,
        denied=prepared.denied_paths,
    )


def evaluator_of(prepared: PreparedTask) -> Evaluator:
    if prepared.task.has_evaluator:
        return PredictionsEvaluator(prepared)
    return SelfReportedEvaluator(prepared.task.metric)


def resolution(prepared: PreparedTask) -> float:
    """The smallest difference of two scores that the hidden rows can show.

    One more right answer, or 0 for measures that are not shares of rows.
    """
    rows = prepared.facts["rows"]["hidden"]
    return 1.0 / rows if "accuracy" in prepared.task.metric.name and rows else 0.0


def node_limits(params: ExperimentParams) -> ExecutionLimits:
    return ExecutionLimits(
        wall_seconds=params.node_seconds,
        memory_bytes=int(params.node_memory_gb * GB) or None,
        disk_bytes=int(params.node_disk_gb * GB),
    )
