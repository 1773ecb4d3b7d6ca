"""Ideas survive crashes, caps and bad replies; nothing is written twice, and nothing is kept that cannot be used."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pod_worker.core.failure import CancelRequested, FailureCode, RunError
from pod_worker.core.payload import IdeationFailed, IdeationGenerated, IdeationStarted, StageProgress
from pod_worker.core.research.completion import ChatCompletion, CompletionRequest
from pod_worker.core.research.literature import Work
from pod_worker.stages.ideation.params import parse
from pod_worker.stages.ideation.run import run_ideation
from tests.stages.research.context import ResearchContext
from tests.training.context import Stop

TASKS = [{"name": "wine", "title": "Wine", "description": "Tell wines apart.", "metric": "macro_f1", "kind": "x"}]
WORK = Work(id="s2:1", title="On smoothing", authors=("A B",), year=2016, abstract="x" * 5000)
SUBJECTS = (
    "alpha noise",
    "beta depth",
    "gamma width",
    "delta scaling",
    "epsilon kernels",
    "zeta trees",
    "eta seeds",
)


def idea(number: int, **fields: Any) -> dict[str, Any]:
    subject = SUBJECTS[number]
    return {
        "Name": f"idea_{number}", "Title": f"{subject} {subject[::-1]}", "Short Hypothesis": f"{subject} {number} helps",
        "Related Work": "", "Abstract": "We test it.", "Experiments": ["compare"],
        "Risk Factors and Limitations": ["small"], "Task": "wine",
    } | fields  # fmt: skip


def reply(value: Any, is_final: bool = True) -> dict[str, Any]:
    return {"thought": "t", "idea": value, "is_final": is_final}


class Model:
    """Proposes the next of its answers, and returns each idea unchanged when asked to reflect."""

    def __init__(self, *proposals: Any, reflect: Callable[[CompletionRequest], Any] | None = None) -> None:
        self.proposals = list(proposals)
        self.reflect = reflect or (lambda request: reply(request.facts["previous"]))
        self.requests: list[CompletionRequest] = []

    def complete(self, request: CompletionRequest) -> ChatCompletion:
        self.requests.append(request)
        found = self.proposals.pop(0) if request.operation == "ideation.propose" else self.reflect(request)
        if isinstance(found, BaseException):
            raise found
        return ChatCompletion(text="", value=copy.deepcopy(found), model="m")

    def count(self, operation: str) -> int:
        return sum(each.operation == f"ideation.{operation}" for each in self.requests)


class Index:
    name = "recorded"

    def __init__(self, error: RunError | None = None) -> None:
        self.error, self.queries = error, list[str]()

    def search(self, query: str, limit: int) -> tuple[Work, ...]:
        self.queries.append(query)
        if self.error:
            raise self.error
        return (WORK,)


class Bench:
    """One request, attempt after attempt."""

    def __init__(self, root: Path, **params: Any) -> None:
        self.root = root
        self.params = {"idea": "Smoothing helps.", "title": "Noise", "hypothesis_id": "h1"} | params
        self.attempt = 0

    def run(self, model: Model, index: Any = None, stop: Stop | None = None) -> Any:
        self.attempt += 1
        self.context = ResearchContext(self.root, self.params, "ideation", attempt=self.attempt, stop=stop)
        return run_ideation(self.context, parse(self.params), model, index, TASKS)

    def events(self, kind: type[Any]) -> list[Any]:
        return [each for each in self.context.events if isinstance(each, kind)]

    def titles(self) -> list[str]:
        return list(self.events(IdeationGenerated)[-1].top_k)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, max_num_generations=3)


def test_each_idea_is_emitted_at_once_with_all_before_it(bench: Bench) -> None:
    model = Model(*(reply(idea(number)) for number in range(3)))
    summary = bench.run(model, Index())
    assert bench.events(IdeationStarted)
    generated = bench.events(IdeationGenerated)
    assert [each.count for each in generated] == [1, 2, 3]
    assert generated[-1].ideas == [idea(0), idea(1), idea(2)]
    assert {each.hypothesis_id for each in generated} == {"h1"}
    assert summary["ideas"] == 3
    published = json.loads((bench.context.work_dir / "ideas.json").read_text())
    assert published["ideas"] == [idea(0), idea(1), idea(2)]
    assert published["literature"] == {"index": "recorded", "works": 1, "problem": None}
    assert [each.progress for each in bench.events(StageProgress)][-1] == 1.0
    assert model.count("reflect") == 3, "a final reflection ends the rounds"


def test_reflections_are_bounded_and_see_the_idea_and_the_literature(bench: Bench) -> None:
    bench.params |= {"reflections": 4, "max_num_generations": 1}
    rounds: list[int] = []

    def reflect(request: CompletionRequest) -> Any:
        rounds.append(request.facts["round"])
        return reply(request.facts["previous"] | {"Abstract": f"Round {rounds[-1]}."}, is_final=False)

    model, index = Model(reply(idea(0)), reflect=reflect), Index()
    bench.run(model, index)
    assert rounds == [1, 2, 3, 4]
    assert bench.events(IdeationGenerated)[-1].ideas[0]["Abstract"] == "Round 4."
    assert index.queries == ["Noise", idea(0)["Title"]], "one search for the topic, one for the title"
    assert model.requests[-1].facts["literature"][0]["title"] == "On smoothing"
    assert len(model.requests[-1].facts["literature"][0]["abstract"]) == 600
    assert "Tell wines apart" in model.requests[0].messages[1].text


def test_an_idea_that_repeats_another_one_is_asked_for_again_once(bench: Bench) -> None:
    bench.params["prior_titles"] = [SUBJECTS[5] + " " + SUBJECTS[5][::-1]]
    model = Model(
        reply(idea(0)),
        reply(idea(0, Title=idea(0)["Title"].upper())), reply(idea(1)),  # the second answer is used
        reply(idea(5)), reply(idea(1)),  # neither is
    )  # fmt: skip
    summary = bench.run(model)
    assert bench.titles() == [idea(0)["Title"], idea(1)["Title"]]
    assert "repeats" in str(model.requests[3].facts["problem"])
    assert len(summary["dropped"]) == 1
    assert model.count("propose") == 5


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"thought": "t"},
        reply({"Title": "x"}),
        reply(idea(1, Abstract="x" * 12_000)),
        reply(idea(1, Experiments=[])),
    ],
    ids=["empty", "no idea", "incomplete", "too long", "no experiment"],
)
def test_a_reply_that_stays_invalid_costs_its_own_idea_only(bench: Bench, bad: Any) -> None:
    summary = bench.run(Model(reply(idea(0)), bad, bad, reply(idea(2))))
    assert bench.titles() == [idea(0)["Title"], idea(2)["Title"]]
    assert len(summary["dropped"]) == 1
    assert summary["generations"] == 3


def test_an_invalid_reflection_keeps_the_idea_as_it_was(bench: Bench) -> None:
    bench.params["max_num_generations"] = 1
    bench.run(Model(reply(idea(0)), reflect=lambda request: reply({"Title": ""})))
    assert bench.events(IdeationGenerated)[-1].ideas == [idea(0)]


def test_a_crash_after_an_idea_loses_none_and_repeats_none(bench: Bench) -> None:
    with pytest.raises(RunError):
        bench.run(Model(reply(idea(0)), RunError(FailureCode.NETWORK, "away")))
    assert bench.events(IdeationFailed)[-1].code == "NETWORK"
    model = Model(reply(idea(1)), reply(idea(2)))
    summary = bench.run(model)
    assert [each.count for each in bench.events(IdeationGenerated)] == [1, 2, 3], "the first is emitted again"
    assert summary["titles"] == [idea(number)["Title"] for number in range(3)]
    assert idea(0)["Title"] in model.requests[0].facts["prior"]
    assert bench.run(Model())["ideas"] == 3, "a finished stage that is repeated asks for nothing"


def test_a_stop_ends_before_the_next_call(bench: Bench) -> None:
    model = Model(*(reply(idea(number)) for number in range(3)))
    with pytest.raises(CancelRequested):
        bench.run(model, stop=Stop(3, CancelRequested))
    assert 0 < len(model.requests) < 6


def test_a_cap_keeps_the_ideas_so_far(bench: Bench) -> None:
    cap = RunError(FailureCode.BUDGET_EXCEEDED, "the cap of 2 USD would be passed")
    summary = bench.run(Model(reply(idea(0)), cap))
    assert bench.titles() == [idea(0)["Title"]]
    assert "2 USD" in str(summary["ended_early"])
    assert not bench.events(IdeationFailed)


def test_a_cap_before_the_first_idea_fails_with_its_name(bench: Bench) -> None:
    with pytest.raises(RunError) as caught:
        bench.run(Model(RunError(FailureCode.BUDGET_EXCEEDED, "cap")))
    assert caught.value.code is FailureCode.BUDGET_EXCEEDED
    assert bench.events(IdeationFailed)[-1].code == "BUDGET_EXCEEDED"


def test_one_failed_answer_is_dropped_and_two_in_a_row_end_the_attempt(bench: Bench) -> None:
    failed = RunError(FailureCode.LLM_ERROR, "no usable answer")
    assert bench.run(Model(failed, reply(idea(1)), failed))["ideas"] == 1
    other = Bench(bench.root / "other", max_num_generations=3)
    with pytest.raises(RunError, match=r"no usable answer"):
        other.run(Model(reply(idea(0)), failed, failed))
    assert other.run(Model(reply(idea(1))))["ideas"] == 2, "the next attempt goes on after the dropped one"


def test_no_idea_at_all_fails_and_the_next_attempt_tries_again(bench: Bench) -> None:
    with pytest.raises(RunError, match=r"no usable idea in 3 generations.*'Abstract' is missing") as caught:
        bench.run(Model(*[reply({"Title": "x"})] * 6))
    assert caught.value.code is FailureCode.LLM_ERROR
    model = Model(*(reply(idea(number)) for number in range(3)))
    assert bench.run(model)["ideas"] == 3
    assert model.requests[0].sample == 3, "other requests than before, which a cache would answer alike"


@pytest.mark.parametrize("index", [None, Index(RunError(FailureCode.NETWORK, "the index is away"))])
def test_without_literature_it_goes_on_and_says_so(bench: Bench, index: Any) -> None:
    bench.params["max_num_generations"] = 2
    summary = bench.run(Model(reply(idea(0)), reply(idea(1))), index)
    assert summary["ideas"] == 2
    assert ("away" if index else "no literature index") in summary["literature"]["problem"]
    assert index is None or len(index.queries) == 1, "an index that is away is asked once"


def test_a_task_that_is_not_offered_is_taken_off(bench: Bench) -> None:
    bench.params["max_num_generations"] = 1
    bench.run(Model(reply(idea(0, Task="imagenet"))))
    assert "Task" not in bench.events(IdeationGenerated)[-1].ideas[0]


def test_the_state_of_twenty_large_ideas_fits_into_a_checkpoint(bench: Bench) -> None:
    from pod_worker.core.research.idea import read_idea
    from pod_worker.stages.ideation.run import IdeationState
    from pod_worker.worker.protocol import check_checkpoint

    large = read_idea(idea(0, Abstract="ä" * 5_700))
    check_checkpoint("ideation", IdeationState([large] * 20, 40, ["x" * 330] * 40).to_json())
