"""Recorded results, an idea, and a code runner without a sandbox, for the tests of papers."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from pod_worker.core.execution import ExecutionEnd, ExecutionRequest, ExecutionResult
from pod_worker.core.failure import RunError
from pod_worker.core.research.completion import ChatCompletion, CompletionRequest
from pod_worker.core.research.idea import Idea
from pod_worker.core.research.measure import Metric
from pod_worker.core.run import Json
from pod_worker.core.stage import StopSignal
from pod_worker.literature.recorded import RecordedSearch
from pod_worker.paper.citations import ReferenceList, collect_references
from pod_worker.paper.evidence.results import RecordedCurve, RecordedNode, RecordedResults, TaskFact, read_json
from pod_worker.paper.plots import make_figures
from pod_worker.paper.sources import PaperSources
from pod_worker.paper.typesetting.figures import FigureSet
from pod_worker.paper.typesetting.latex import LatexTools, check_toolchain
from pod_worker.paper.writing import write_paper

# One cache of fonts for all processes of the tests, as the sandbox's warm interpreter has.
_MATPLOTLIB = os.environ.setdefault("MPLCONFIGDIR", str(Path(tempfile.gettempdir()) / f"matplotlib-{os.getuid()}"))
SEEDS = (11, 12, 13)
ACCURACY = Metric("accuracy", "higher")


class NoStop:
    def check(self) -> None: ...

    def is_set(self) -> bool:
        return False


class PlainRunner:
    """Implements `core.execution.CodeRunner` by a plain process: for tests of what is around it."""

    layers: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.requests: list[ExecutionRequest] = []

    def execute(self, request: ExecutionRequest, stop: StopSignal) -> ExecutionResult:
        self.requests.append(request)
        argv = list(request.argv) if request.argv[0].startswith("/") else [sys.executable, *request.argv]
        # The sandbox starts programs with nothing but what the request names.
        environment = {
            "PATH": os.defpath,
            "HOME": str(request.folder),
            "MPLBACKEND": "Agg",
            "MPLCONFIGDIR": _MATPLOTLIB,
            **request.environment,
        }
        started = time.monotonic()
        process = subprocess.Popen(
            argv, cwd=request.folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            output, _ = process.communicate(timeout=request.limits.wall_seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            return ExecutionResult(end=ExecutionEnd.TIMED_OUT, output=output.decode(errors="replace"))
        code = process.returncode
        return ExecutionResult(
            end=ExecutionEnd.EXITED if code >= 0 else ExecutionEnd.SIGNALED,
            exit_code=code if code >= 0 else None,
            seconds=time.monotonic() - started,
            output=output.decode(errors="replace")[: request.limits.output_bytes],
        )

    def remove(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)


class Writer:
    """Implements `core.research.completion.CompletionClient`: each operation's answers in turn, the last one again."""

    def __init__(self, **answers: list[Json] | Callable[[CompletionRequest], Json]) -> None:
        self._answers = {name.replace("__", "."): answer for name, answer in answers.items()}
        self.requests: list[CompletionRequest] = []

    def complete(self, request: CompletionRequest) -> ChatCompletion:
        self.requests.append(request)
        answer = self._answers[request.operation]
        value = answer(request) if callable(answer) else answer.pop(0) if len(answer) > 1 else answer[0]
        if isinstance(value, BaseException):
            raise value
        return ChatCompletion(text="", value=value, model="test-model")

    def count(self, operation: str) -> int:
        return sum(request.operation == operation for request in self.requests)


def make_node(node_id: str, stage: str, change: str, mean: float, **fields: Json) -> RecordedNode:
    rng = random.Random(node_id)
    curve_of = lambda seed: tuple(1 / (1 + step) + rng.gauss(0, 0.01) for step in range(20))  # noqa: E731
    given = {
        "scores": tuple(mean + rng.gauss(0, 0.003) for _ in SEEDS),
        "search_scores": tuple(mean + 0.004 + rng.gauss(0, 0.003) for _ in SEEDS),
        "seeds": SEEDS,
        "artifact": f"research/nodes/{node_id}/result.json",
        "program_sha256": node_id.encode().hex(),
        "curves": tuple(
            RecordedCurve(name="train_loss", seed=seed, steps=tuple(range(20)), values=curve_of(seed))
            for seed in SEEDS
        ),
    } | fields
    return RecordedNode(node_id=node_id, stage=stage, change=change, **given)


def make_results() -> RecordedResults:
    return RecordedResults(
        run_id="01RUN",
        task="Handwritten digits (8x8)",
        metric=ACCURACY,
        nodes=(
            make_node("n1", "Stage_1", "logistic regression", 0.931, is_best=True),
            make_node("n2", "Stage_2", "weight decay 0.01", 0.942, is_best=True),
            make_node("n3", "Stage_3", "label smoothing 0.1", 0.958),
            make_node("n4", "Stage_3", "label smoothing 0.05 and mixup", 0.962, is_best=True),
            make_node("n5", "Stage_4", "no label smoothing", 0.951),
            make_node("n6", "Stage_4", "no mixup", 0.957, is_best=True),
        ),
        outcomes={"scored": 6, "buggy": 2, "timed_out": 1, "no_score": 0},
        task_facts=(
            TaskFact(key="train_rows", value=180, meaning="rows of the train split"),
            TaskFact(key="hidden_rows", value=600, meaning="rows of the hidden split"),
        ),
        baseline_id="n1",
        noise_band=0.004,
        models=("test-model",),
    )


@pytest.fixture(scope="session")
def results() -> RecordedResults:
    return make_results()


@pytest.fixture(scope="session")
def idea() -> Idea:
    return Idea(
        title="Label smoothing on small data",
        short_hypothesis="Label smoothing helps when there are few training rows.",
        abstract="We study $q = (1 - \\epsilon) y + \\epsilon / K$ with $\\epsilon = 0.1$ on digits such as MNIST-1D.",
        experiments=("Compare smoothing values.",),
        risks=("The effect may be below the noise.",),
    )


@pytest.fixture
def stop() -> NoStop:
    return NoStop()


@pytest.fixture
def runner() -> PlainRunner:
    return PlainRunner()


def without_spread(node: RecordedNode) -> RecordedNode:
    return replace(node, scores=node.scores[:1], seeds=node.seeds[:1])


TEXT = {
    "title": "Label smoothing on small data",
    "abstract": r"We reach \result{stage3.best} against \result{baseline}.",
    "sections": [
        {"heading": "Introduction", "body": r"As \citet{muller2019when} we smooth labels. See Figure~\ref{fig:stages}."},
        {"heading": "Results", "body": r"Table~\ref{tab:results} and Table~\ref{tab:ablations} show $\Delta = \result{stage3.gain}$."},
    ],
}  # fmt: skip
QUERIES = {"queries": ["when does label smoothing help"], "is_done": True}


def select_first(request: CompletionRequest) -> Json:
    return {"selected": [{"id": request.facts["candidates"][0]["id"], "reason": "it is about the method"}]}


@pytest.fixture(scope="session")
def latex_tools() -> LatexTools:
    try:
        return check_toolchain()
    except RunError as error:
        pytest.skip(f"{error.message} (or: make system)")


@pytest.fixture(scope="session")
def drawn(results: RecordedResults, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A paper's folder with the default figures."""
    if find_spec("matplotlib") is None:
        pytest.fail("matplotlib is not installed, and papers have figures. Fix: make install", pytrace=False)
    folder = tmp_path_factory.mktemp("drawn")
    make_figures(results, folder, None, PlainRunner(), NoStop())
    return folder


@pytest.fixture(scope="session")
def references(idea: Idea) -> ReferenceList:
    client = Writer(citations__query=[QUERIES], citations__select=select_first)
    return collect_references(idea, client, RecordedSearch(), NoStop())


@pytest.fixture(scope="session")
def sources(idea: Idea, results: RecordedResults, drawn: Path, references: ReferenceList) -> PaperSources:
    figures = read_json(drawn / "figures.json", FigureSet).figures
    return PaperSources(idea=idea, results=results, figures=figures, references=references)


@pytest.fixture(scope="session")
def written(
    sources: PaperSources, drawn: Path, latex_tools: LatexTools, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a finished paper; copy it before a change."""
    folder = tmp_path_factory.mktemp("written") / "paper"
    shutil.copytree(drawn, folder)
    write_paper(sources, folder, latex_tools, Writer(paper__write=[TEXT]), PlainRunner(), NoStop())
    return folder


@pytest.fixture
def paper_folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "paper"))
