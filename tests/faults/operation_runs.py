"""A short run for each family of model operations: the real code of the pipelines, without sandbox and LaTeX.

Each returns what must be the same after a fault that passed.
"""

from __future__ import annotations

import random
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pod_worker.core.execution import ExecutionEnd, ExecutionRequest, ExecutionResult
from pod_worker.core.research.completion import CompletionClient
from pod_worker.core.stage import StopSignal
from pod_worker.literature.recorded import RecordedSearch
from pod_worker.paper.citations import collect_references
from pod_worker.paper.plots import make_figures
from pod_worker.paper.review import collect_reviews
from pod_worker.paper.sources import PaperSources
from pod_worker.paper.typesetting.latex import PROGRAMS, LatexTools
from pod_worker.paper.verdict import PaperCheck, decide
from pod_worker.paper.writing import write_paper
from pod_worker.search.choice.stages import STAGE_RULES
from pod_worker.search.tree.journal import read_state
from pod_worker.stages.ideation.params import parse
from pod_worker.stages.ideation.run import run_ideation
from tests.paper.conftest import make_results
from tests.search.fakes import IDEA, make_search, tree_of
from tests.stages.research.context import ResearchContext

Run = Callable[[CompletionClient, Path, StopSignal], Any]
RESULTS = make_results()
TASKS = [{"name": "wine", "title": "Wine", "description": "Tell wines apart.", "metric": "macro_f1"}]


def search(operation: str) -> Run:
    """The first stage, which drafts and repairs, and the stage of the operation."""
    stages = [name for name, rules in STAGE_RULES.items() if operation == f"node.{rules.operation}"] or ["Stage_2"]

    def run(client: CompletionClient, folder: Path, stop: StopSignal) -> Any:
        options = {"debug_probability": 0.9, "seeds": 2}
        found = make_search(folder / "search", client=client, stop=stop, set=options)
        for stage in dict.fromkeys(("Stage_1", *stages)):
            found.run_stage(stage, 4)
        return tree_of(read_state(folder / "search"))

    return run


def agent(client: CompletionClient, folder: Path, stop: StopSignal) -> Any:
    """The first stage with an agent that writes its programs."""
    found = make_search(folder / "search", client=client, stop=stop, set={"agent_turns": 6, "seeds": 2})
    found.run_stage("Stage_1", 4)
    return tree_of(read_state(folder / "search"))


def figures(client: CompletionClient, folder: Path, stop: StopSignal) -> Any:
    return make_figures(RESULTS, folder, client, FigureRunner(), stop)


def citations(client: CompletionClient, folder: Path, stop: StopSignal) -> Any:
    return collect_references(IDEA, client, RecordedSearch(), stop)


def paper(client: CompletionClient, folder: Path, stop: StopSignal) -> Any:
    """The compiler refuses the first text, so that it is repaired."""
    sources = PaperSources(idea=IDEA, results=RESULTS, figures=())
    tools = LatexTools(programs={name: Path("/", name) for name in PROGRAMS}, folders=())
    return write_paper(sources, folder, tools, client, RefusingLatex(), stop)


def reviews(client: CompletionClient, folder: Path, stop: StopSignal) -> Any:
    checks = [PaperCheck(name="numbers", title="numbers trace", holds=True)]
    return decide(collect_reviews("A text.", (), checks, (), folder, client, stop, count=2), checks)


def ideation(client: CompletionClient, folder: Path, stop: StopSignal) -> Any:
    params = {"idea": "Smoothing helps.", "title": "Noise", "max_num_generations": 2, "reflections": 1}
    context = ResearchContext(folder, params, "ideation")
    return run_ideation(context, parse(params), client, None, TASKS)["titles"]


RUNS: dict[str, Run] = {  # of the families without stages
    "agent": agent,
    "plots": figures,
    "citations": citations,
    "paper": paper,
    "review": reviews,
    "ideation": ideation,
}


def run_of(operation: str) -> Run:
    family = operation.partition(".")[0]
    if family == "node":
        return search(operation)
    if family not in RUNS:
        pytest.fail(f"add a run that asks {operation} to RUNS: every operation meets every fault", pytrace=False)
    return RUNS[family]


class FolderRunner:
    """Implements `core.execution.CodeRunner` by writing what the program would."""

    layers: tuple[str, ...] = ()

    def execute(self, request: ExecutionRequest, stop: StopSignal) -> ExecutionResult:
        raise NotImplementedError

    def remove(self, folder: Path) -> None:
        shutil.rmtree(folder)


class FigureRunner(FolderRunner):
    def execute(self, request: ExecutionRequest, stop: StopSignal) -> ExecutionResult:
        (request.folder / "search-hidden.png").write_bytes(_image())
        return ExecutionResult(end=ExecutionEnd.EXITED, exit_code=0)


class RefusingLatex(FolderRunner):
    """Refuses the first source, accepts the second."""

    def __init__(self) -> None:
        self.compiled = 0

    def execute(self, request: ExecutionRequest, stop: StopSignal) -> ExecutionResult:
        program = Path(request.argv[0]).name
        if program == "pdflatex":
            return self._compile(request.folder)
        output = {"pdfinfo": "Pages:   2\n", "pdftotext": "A paper.\n"}.get(program, "")
        return ExecutionResult(end=ExecutionEnd.EXITED, exit_code=0, output=output)

    def _compile(self, folder: Path) -> ExecutionResult:
        self.compiled += 1
        if self.compiled == 1:
            (folder / "paper.log").write_text("paper.tex:5: Undefined control sequence.\n")
            return ExecutionResult(end=ExecutionEnd.EXITED, exit_code=1)
        (folder / "paper.log").write_text("fine\n")
        (folder / "paper.aux").write_text(r"\newlabel{pod-worker-end}{{1}{2}}")
        (folder / "paper.pdf").write_bytes(b"%PDF-1.5\n")
        return ExecutionResult(end=ExecutionEnd.EXITED, exit_code=0)


def _image() -> bytes:
    """A PNG of 60 x 60 pixels."""
    rows = b"".join(b"\0" + random.Random(row).randbytes(60) for row in range(60))
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", 60, 60, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    chunks = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
