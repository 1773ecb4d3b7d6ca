"""An agent writes programs in turns: bounded, honest, and nothing is paid or executed twice."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from functools import partial

import pytest

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.search.agent.session import CAPPED, FOLDER
from pod_worker.search.agent.turns import CONTENT_BYTES
from pod_worker.search.agent.workspace import FILES_LIMIT, SHOWN
from pod_worker.search.pool import ThreadPool
from pod_worker.search.settings import SearchSettings
from pod_worker.search.tree.journal import read_code, read_state
from pod_worker.search.tree.node import NodeOutcome
from tests.search.fakes import FakeModel, FakeSandbox, agent_action, make_search, program, tree_of
from tests.search.test_scheduler import DyingPool

PROGRAM = program(score=0.5, noise=0.01)
WRITE, RUN, FINISH = (
    agent_action("write", content=PROGRAM),
    agent_action("run"),
    agent_action("finish", plan="It is simple.", change="first"),
)


class Agent(FakeModel):
    """Takes its actions in turn in each session; the last one again."""

    def __init__(self, *actions):
        super().__init__()
        self.actions = actions

    def _turn(self, request):
        return self.actions[min(int(request.facts["turn"]), len(self.actions)) - 1]

    @property
    def turns(self):
        return [request for request in self.requests if request.operation == "agent.turn"]

    def seen(self, turn):
        """The last message of a turn: the observation of the one before."""
        return next(request.messages[-1].text for request in self.turns if request.facts["turn"] == turn)


def run(folder, agent, sandbox=None, turns=6, **parts):
    options = {"seeds": 2, "agent_turns": turns, "num_drafts": 1}
    search = make_search(folder, client=agent, set=options, runner=sandbox or FakeSandbox(), **parts)
    return search.run_stage("Stage_1", 1)


def first(folder):
    return read_state(folder).nodes["Stage_1-001"]


def test_an_agent_writes_runs_and_hands_in_a_program_that_is_executed_again(tmp_path):
    sandbox = FakeSandbox()
    run(tmp_path, Agent(WRITE, RUN, FINISH), sandbox)
    node = first(tmp_path)
    assert (node.outcome, node.plan, node.change) == (NodeOutcome.SCORED, "It is simple.", "first")
    assert read_code(tmp_path, node.code) == PROGRAM
    assert node.calls == 3 + 1, "each turn is a call, and the analysis"
    tried, scored = sandbox.executions[:2]
    assert (tried.folder.name, scored.folder.name) == ("Stage_1-001-agent", "Stage_1-001")
    assert len(sandbox.executions) == 1 + 1 + 2, "the agent's run, the node, its replicas"
    assert (tried.seed, tried.limits, tried.denied) == (scored.seed, scored.limits, scored.denied)


def test_the_cap_on_turns_ends_a_session_and_the_last_program_counts(tmp_path):
    agent = Agent(agent_action("write", "other.py", content="1"), WRITE, RUN)
    run(tmp_path, agent, turns=5)
    assert len(agent.turns) == 5
    assert first(tmp_path).plan == CAPPED
    assert read_code(tmp_path, first(tmp_path).code) == PROGRAM
    assert "1 turns are left. It must be `finish`." in agent.seen(5)


def test_an_agent_that_writes_nothing_gets_one_more_session_and_is_declined(tmp_path):
    agent = Agent(RUN)
    with pytest.raises(RunError, match="no program was executed"):
        run(tmp_path, agent, turns=3)
    assert len(agent.turns) == 2 * 3
    assert "rejected" in agent.turns[-1].facts
    assert first(tmp_path).calls == 6


@pytest.mark.parametrize(
    "name", ["../solution.py", "/etc/passwd", "out/x.py", "", ".bashrc", "a" * 90, "x y.py", "ü.py"]
)
def test_a_path_outside_the_workspace_is_refused(tmp_path, name):
    agent = Agent(agent_action("write", name, content="x"), WRITE, FINISH)
    run(tmp_path, agent)
    assert "Refused" in agent.seen(2)
    assert not agent.turns[1].facts["files"]


def test_sizes_and_numbers_of_files_are_bounded(tmp_path):
    many = [agent_action("write", f"f{number}.py", content="1") for number in range(FILES_LIMIT + 1)]
    large = agent_action("write", content="x" * (CONTENT_BYTES + 1))
    agent = Agent(large, *many, agent_action("finish", "f0.py"))
    run(tmp_path, agent, DoingNothing(), turns=len(many) + 2)
    assert f"at most {CONTENT_BYTES}" in agent.seen(2)
    assert f"there are {FILES_LIMIT} files already" in agent.seen(len(many) + 2)


class DoingNothing(FakeSandbox):
    """Any program ends with this one's score."""

    def execute(self, request, stop):
        (request.folder / "solution.py").write_text(PROGRAM)
        return super().execute(request, stop)


def test_a_long_conversation_stays_below_its_bound(tmp_path):
    long = [agent_action("write", f"f{number % 3}.py", content=f"{number}" * 20_000) for number in range(20)]
    agent = Agent(*long, WRITE, FINISH)
    run(tmp_path, agent, turns=25)
    sizes = [sum(len(message.text) for message in request.messages) for request in agent.turns]
    assert 60_000 < max(sizes) < 160_000
    roles = [message.role for message in agent.turns[-1].messages]
    assert roles == ["system", "user"] + ["assistant", "user"] * ((len(roles) - 2) // 2)


def test_a_failed_run_shows_its_error_and_more_output_can_be_read(tmp_path):
    class Failing(FakeSandbox):
        def execute(self, request, stop):
            result = super().execute(request, stop)
            output = "a" * 9_000 + "\nValueError: bad shape\n"
            is_try = request.folder.name.endswith("-agent")
            return replace(result, exit_code=1, output=output) if is_try else result

    agent = Agent(WRITE, RUN, agent_action("read", offset=4_000), FINISH)
    run(tmp_path, agent, Failing())
    assert "solution.py failed: ValueError: bad shape" in agent.seen(3)
    assert len(agent.seen(3)) < SHOWN + 500
    assert f"Characters 4000 to {4_000 + SHOWN} of" in agent.seen(4)


def test_only_what_the_agent_wrote_can_be_handed_in(tmp_path):
    """A program of the agent may write to its folder; the controller's copy is what counts."""

    def forge(request):
        if request.folder.name.endswith("-agent"):
            (request.folder / "helper.py").write_text("forged")

    sandbox = FakeSandbox(before=forge)
    agent = Agent(WRITE, RUN, agent_action("finish", "helper.py"), FINISH)
    run(tmp_path, agent, sandbox)
    assert "there is no file 'helper.py'; the files are solution.py" in agent.seen(4)
    assert read_code(tmp_path, first(tmp_path).code) == PROGRAM


def test_each_run_of_an_agent_begins_in_a_fresh_folder(tmp_path):
    left = []

    def look(request):
        if request.folder.name.endswith("-agent"):
            left.append(sorted(path.name for path in request.folder.iterdir()))
            (request.folder / "state").write_text("x")

    run(tmp_path, Agent(WRITE, RUN, RUN, FINISH), FakeSandbox(before=look))
    assert left == [["out", "solution.py"]] * 2


class KilledError(BaseException):
    """The process dies here."""


def die_at(turn, request):
    return KilledError() if request.facts.get("turn") == turn else None


def test_a_session_that_is_killed_goes_on_with_its_next_turn(tmp_path):
    """Neither a turn that was answered nor a run of its programs is repeated."""
    sandbox = FakeSandbox()
    for turn in (2, 3):
        dying = Agent(WRITE, RUN, FINISH)
        dying.fail = partial(die_at, turn)
        with pytest.raises(KilledError):
            run(tmp_path, dying, sandbox, new_pool=lambda: DyingPool(KilledError))
    agent = Agent(WRITE, RUN, FINISH)
    run(tmp_path, agent, sandbox)
    assert [request.facts["turn"] for request in agent.turns] == [3]
    assert [each.folder.name for each in sandbox.executions].count("Stage_1-001-agent") == 1
    run(tmp_path / "whole", Agent(WRITE, RUN, FINISH))
    assert tree_of(read_state(tmp_path)) == tree_of(read_state(tmp_path / "whole"))


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:-20], lambda data: data + b'{"action"', lambda data: b"x" + data, lambda data: b""],
)
def test_a_damaged_transcript_is_continued_from_its_whole_turns(tmp_path, damage):
    run(tmp_path / "whole", Agent(WRITE, RUN, FINISH))
    path, target = (tmp_path / name / FOLDER / "Stage_1-001.ndjson" for name in ("whole", "cut"))
    target.parent.mkdir(parents=True)
    target.write_bytes(damage(path.read_bytes()))
    run(tmp_path / "cut", Agent(WRITE, RUN, FINISH))
    assert tree_of(read_state(tmp_path / "cut")) == tree_of(read_state(tmp_path / "whole"))
    assert target.read_bytes().splitlines()[1:] == path.read_bytes().splitlines()[1:]


def test_the_transcript_is_plain_json_lines(tmp_path):
    run(tmp_path, Agent(WRITE, RUN, FINISH))
    lines = (tmp_path / FOLDER / "Stage_1-001.ndjson").read_text().splitlines()[1:]
    assert [json.loads(line)["action"]["action"] for line in lines] == ["write", "run", "finish"]


def test_a_sandbox_that_cannot_work_ends_the_search_at_once(tmp_path):
    def broken(request):
        raise RunError(FailureCode.ENVIRONMENT, "no namespaces here")

    agent = Agent(WRITE, RUN, FINISH)
    with pytest.raises(RunError, match=r"^no namespaces here$"):
        run(tmp_path, agent, FakeSandbox(before=broken))
    assert len(agent.turns) == 2


def test_an_agent_and_the_nodes_share_the_slots(tmp_path):
    """With real threads and one slot, never two programs at once."""
    running, most, lock, pause = 0, 0, threading.Lock(), threading.Event()

    class Counting(FakeSandbox):
        def execute(self, request, stop):
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            pause.wait(0.005)  # a second one would come in this time
            try:
                return super().execute(request, stop)
            finally:
                with lock:
                    running -= 1

    options = {"seeds": 2, "agent_turns": 4, "num_drafts": 3, "slots": 1}
    search = make_search(tmp_path, client=FakeModel(), set=options, runner=Counting(), new_pool=ThreadPool)
    search.run_stage("Stage_1", 3)
    assert most == 1


def test_one_turn_is_no_session():
    with pytest.raises(ValueError, match="agent_turns must be 0"):
        SearchSettings(agent_turns=1)
