"""Executes the best programs of a search again and compares their scores.

The data is prepared again from the run's parameters. Its digest must be the recorded one: scores of other data
would say nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import msgspec

from pod_worker.core.execution import CodeRunner
from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.stage import StopSignal
from pod_worker.search.executor import OneShotExecutor
from pod_worker.search.settings import SearchSettings
from pod_worker.search.tree.node import Operation, SearchNode
from pod_worker.search.tree.records import NodeFinished
from pod_worker.stages.research.gpu_slots import slots_of, visible_gpus
from pod_worker.stages.research.params import ExperimentParams
from pod_worker.stages.research.search_session import evaluator_of, node_limits, search_task, split_seed
from pod_worker.tasks.catalogue import find_task
from pod_worker.tasks.prepare import PreparedTask, prepare_task

TOLERANCE = 1e-9


class RecordedBest(msgspec.Struct, frozen=True):
    """A node in `results.json`; further fields are left out."""

    node_id: str
    code: str | None  # SHA-256 of its program
    seed: int
    search: float | None
    hidden: float | None


class RecordedStage(msgspec.Struct, frozen=True):
    stage: str
    best: str | None
    nodes: tuple[RecordedBest, ...]

    @property
    def best_node(self) -> RecordedBest | None:
        return next((node for node in self.nodes if node.node_id == self.best), None)


class RecordedData(msgspec.Struct, frozen=True):
    """The data of the run: equal digests mean equal data and split."""

    name: str
    digest: str


class RecordedExperiment(msgspec.Struct, frozen=True):
    """What `reproduction/results.json` holds."""

    run_id: str
    seed: int
    task: RecordedData
    stages: tuple[RecordedStage, ...]


@dataclass(frozen=True, slots=True)
class ReplayedScore:
    """One score of one stage's best program, then and now."""

    stage: str
    node_id: str
    split: str  # search or hidden
    recorded: float
    again: float | None  # None: the program ended without a score
    is_equal: bool
    problem: str = ""


def read_recorded(content: bytes) -> RecordedExperiment:
    """Raises RunError(INVALID_INPUT) for a file of another form."""
    try:
        return msgspec.json.decode(content, type=RecordedExperiment)
    except msgspec.DecodeError as error:
        raise RunError(
            FailureCode.INVALID_INPUT,
            f"results.json cannot be read: {error}. An older version of this program wrote it, or it is damaged; "
            "repeat the experiment as a new run.",
        ) from None


class SearchReplay:
    """`folder` must be empty, and within reach of the sandbox's user."""

    def __init__(self, params: ExperimentParams, recorded: RecordedExperiment, folder: Path) -> None:
        """Raises RunError where the data is not that of the run."""
        self._params, self._recorded, self._folder = params, recorded, folder
        self._prepared = _prepare(params, recorded, folder / "task")

    def run(
        self,
        runner: CodeRunner,
        stop: StopSignal,
        program_of: Callable[[str], bytes],
        tolerance: float = TOLERANCE,
    ) -> Iterator[ReplayedScore]:
        """Both scores of each stage that has a best program.

        `program_of` gives the published program of a stage.
        """
        executor = self._executor(runner)
        for stage in self._recorded.stages:
            if (best := stage.best_node) is None:
                continue
            code = _require_same_program(stage.stage, best, program_of(stage.stage))
            finished = executor.execute(_node(stage.stage, best), code, 0, stop)
            if finished is None:
                stop.check()  # raises: only a stop request ends without an outcome
                return
            yield from _compared(stage.stage, best, finished, tolerance)

    def _executor(self, runner: CodeRunner) -> OneShotExecutor:
        _, gpus = slots_of(1, visible_gpus())
        return OneShotExecutor(
            runner=runner,
            evaluator=evaluator_of(self._prepared),
            task=search_task(self._prepared),
            settings=SearchSettings(
                seed=self._params.seed,
                gpus=gpus,
                hosts=tuple(self._params.hosts),
                limits=node_limits(self._params),
            ),
            folder=self._folder,
        )


def _prepare(params: ExperimentParams, recorded: RecordedExperiment, root: Path) -> PreparedTask:
    prepared = prepare_task(find_task(params.task), split_seed(params, recorded.run_id), root)
    found = RecordedData(prepared.task.name, prepared.digest)
    if found != recorded.task:
        raise RunError(
            FailureCode.INVALID_INPUT,
            f"the data of task {found.name} on this machine is not that of the run (digest {found.digest[:12]}, "
            f"recorded {recorded.task.digest[:12]} of task {recorded.task.name}): other files in the folder "
            "of the task, or other versions of scikit-learn and numpy. Use the packages of "
            "reproduction/environment.txt and the same data.",
        )
    return prepared


def _require_same_program(stage: str, best: RecordedBest, program: bytes) -> str:
    if sha256(program).hexdigest() != best.code:
        raise RunError(
            FailureCode.INVALID_INPUT,
            f"the published program of {stage} is not that of node {best.node_id} in results.json. The run was "
            "repeated in part; wait for its end, then replay it again.",
        )
    return program.decode()


def _node(stage: str, best: RecordedBest) -> SearchNode:
    """A node with the recorded seed, for the executor of the search."""
    return SearchNode(
        id=best.node_id, stage=stage, step=1, operation=Operation.REPLICATE, seed=best.seed, position=0
    )


def _compared(stage: str, best: RecordedBest, finished: NodeFinished, tolerance: float) -> Iterator[ReplayedScore]:
    problem = f"{finished.error_kind}: {finished.error}".strip(": ")
    pairs = {
        "search": (best.search, finished.search_score),
        "hidden": (best.hidden, finished.hidden_score),
    }
    for split, (recorded, again) in pairs.items():
        if recorded is not None:
            is_equal = again is not None and abs(again - recorded) <= tolerance
            yield ReplayedScore(stage, best.node_id, split, recorded, again, is_equal, problem)
