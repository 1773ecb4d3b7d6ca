"""Programs that break in every way, really executed: each node ends in its state, and the search goes on."""

from __future__ import annotations

import itertools
import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pod_worker.core.execution import ExecutionLimits
from pod_worker.core.research.completion import CompletionRequest
from pod_worker.core.run import Json
from pod_worker.paper import plots
from pod_worker.sandbox.client import SandboxClient
from pod_worker.sandbox.starting import LocalStarter
from pod_worker.search.pool import ThreadPool
from pod_worker.search.tree.journal import read_state
from pod_worker.search.tree.node import NodeOutcome, Operation
from tests.faults.operation_runs import RESULTS
from tests.paper.conftest import Writer
from tests.sandbox.support import ROOT, NeverStop, floor, open_python
from tests.search.fakes import FakeModel, make_search

MB = 2**20
LIMITS = ExecutionLimits(wall_seconds=4.0, memory_bytes=150 * MB, disk_bytes=10 * MB)
END_SECONDS = 60.0  # of a program that is ended by force, on a busy machine


@dataclass(frozen=True, slots=True)
class NodeFault:
    program: str
    outcome: NodeOutcome
    kind: str


BUGGY, TIMED_OUT = NodeOutcome.BUGGY, NodeOutcome.TIMED_OUT
FAULTS = {
    "out of memory": NodeFault("kept = bytearray(os.urandom(2**20)) * 400\ntime.sleep(600)", BUGGY, "memory"),
    "SIGKILL": NodeFault("os.kill(os.getpid(), signal.SIGKILL)", BUGGY, "SIGKILL"),
    "hang": NodeFault("time.sleep(600)", TIMED_OUT, "time"),
    "segmentation fault": NodeFault("ctypes.string_at(0)", BUGGY, "SIGSEGV"),
    "ignores SIGINT": NodeFault(
        "for number in (signal.SIGINT, signal.SIGTERM): signal.signal(number, signal.SIG_IGN)\n"
        "while True: time.sleep(600)",
        TIMED_OUT,
        "time",
    ),
    "disk full": NodeFault("for n in range(10**6): open(f'f{n}', 'wb').write(bytes(2**18))", BUGGY, "disk"),
}
IMPORTS = "import ctypes, json, os, signal, time\n"
GOOD = f"{IMPORTS}open(os.path.join(os.environ['OUTPUT_DIR'], 'scores.json'), 'w').write(json.dumps(%r))\n"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxClient]:
    """Without numeric libraries: it starts at once."""
    packages = os.pathsep.join([str(ROOT), *(path for path in sys.path if "site-packages" in path)])
    with SandboxClient(LocalStarter(["json"], open_python(), {"PYTHONPATH": packages}), floor()) as client:
        yield client


def test_every_fault_of_a_program_ends_in_its_state_and_the_search_goes_on(
    sandbox: SandboxClient, open_folder: Path
) -> None:
    """The first programs of the stages that draft and tune break, one in each way."""
    folder = open_folder / "node-faults"
    for each in (folder, folder / "task"):
        each.mkdir(mode=0o711)
    counts = {stage: itertools.count() for stage in ("Stage_1", "Stage_2")}

    def reply(request: CompletionRequest) -> dict[str, Json]:
        stage = str(request.facts["stage"])
        number = next(counts[stage])
        broken = list(FAULTS.values())[number : number + 1] if number < len(FAULTS) else []
        code = f"{IMPORTS}{broken[0].program}\n" if broken else GOOD % {"score": 0.5 + number / 100, "noise": 0.0}
        return {"code": f"label = '{stage} {number}'\n{code}"}

    model = FakeModel(reply)
    settings = {"slots": 3, "num_drafts": len(FAULTS) + 1, "debug_probability": 0.0, "seeds": 2, "limits": LIMITS}
    search = make_search(folder, client=model, runner=sandbox, set=settings, new_pool=ThreadPool, stop=NeverStop())
    first = search.run_stage("Stage_1", 20)
    assert first.scored
    search.run_stage("Stage_2", len(FAULTS) + 1)
    state = read_state(folder)
    found: Counter[tuple[Operation, NodeOutcome | None, str]] = Counter(
        (node.operation, node.outcome, node.error_kind)
        for node in state.nodes.values()
        if node.outcome is not NodeOutcome.SCORED
    )
    for operation in (Operation.DRAFT, Operation.TUNE):
        expected = Counter((operation, fault.outcome, fault.kind) for fault in FAULTS.values())
        assert all(found[key] >= times for key, times in expected.items()), f"of {operation}: {found}"
    assert all(node.exec_seconds < LIMITS.wall_seconds + END_SECONDS for node in state.nodes.values())
    questions = Counter((request.operation, request.node_id, request.sample) for request in model.requests)
    assert max(questions.values()) == 1, "no question is asked twice"


@pytest.mark.parametrize("name", FAULTS)
def test_code_of_figures_that_breaks_costs_its_figures_only(
    sandbox: SandboxClient, open_folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = open_folder / "figures" / name.replace(" ", "-")
    folder.mkdir(parents=True)
    monkeypatch.setattr(plots, "LIMITS", replace(LIMITS, wall_seconds=0.3))
    monkeypatch.setattr(plots, "REPAIRS_LIMIT", 0)
    monkeypatch.setattr(plots, "draw_figures", lambda results, figures: (figures.mkdir(), ())[1])
    figure = {"file": "a.png", "label": "a", "caption": "A figure."}
    writer = Writer(plots__write=[{"code": IMPORTS + FAULTS[name].program, "figures": [figure]}])
    found = plots.make_figures(RESULTS, folder, writer, sandbox, NeverStop())
    assert found.figures == ()
    assert "was not used" in found.note
    assert writer.count("plots.write") == 1
