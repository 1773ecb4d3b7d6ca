"""The parameters of an experiment: defaults, and refusals that name every problem."""

from typing import Any

import pytest

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.stages.research.params import FIELDS, complete, parse
from pod_worker.stages.research.writing import reach_notice

IDEA = {
    "Title": "Does scaling help?",
    "Short Hypothesis": "Scaled features help linear models.",
    "Abstract": "We test it.",
    "Experiments": ["with and without"],
    "Risk Factors and Limitations": ["small data"],
}


def test_an_idea_is_enough() -> None:
    found = complete({"idea": IDEA})
    assert found.keys() == FIELDS.keys()
    assert complete(found) == found


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        ({}, "'idea' is missing"),
        ({"idea": {"Title": "x"}}, "'Abstract' is missing"),
        ({"idea": "x"}, "idea"),
        ({"idea": IDEA, "slotz": 2}, "did you mean 'slots'"),
        ({"idea": IDEA, "num_drafts": 2}, "did you mean 'drafts'"),
        ({"idea": IDEA, "max_usd": -1}, "'max_usd' is -1"),
        ({"idea": IDEA, "max_usd": float("nan")}, "'max_usd' is nan"),
        ({"idea": IDEA, "replicas": 1}, "'replicas' is 1"),
        ({"idea": IDEA, "stage_1_iterations": 0}, "'stage_1_iterations' is 0"),
        ({"idea": IDEA, "task": ""}, "'task' is ''"),
        ({"idea": IDEA, "hosts": ["https://a.org"]}, "'https://a.org' is no host"),
        ({"idea": IDEA, "executor": "robot"}, "'executor'"),
        ({"idea": IDEA, "agent_turns": 1}, "'agent_turns' is 1"),
        ({"idea": IDEA, "task": "digitz"}, "there is no task 'digitz'"),
    ],
)
def test_a_wrong_parameter_is_named(params: dict[str, Any], problem: str) -> None:
    with pytest.raises(RunError) as caught:
        parse(params)
    assert caught.value.code is FailureCode.INVALID_INPUT
    assert problem in caught.value.message


def test_all_problems_are_listed_together() -> None:
    with pytest.raises(RunError, match=r"slotz.*idea.*max_usd"):
        parse({"slotz": 1, "max_usd": -1})


@pytest.mark.parametrize("task", ["wine", "/pods/only/task"])
def test_a_shipped_task_or_a_path_is_accepted(task: str) -> None:
    """The path may be on the worker alone."""
    assert parse({"idea": IDEA, "task": task}).task == task


def test_named_hosts_are_checked_and_shown() -> None:
    hosts = parse({"idea": IDEA, "hosts": ["huggingface.co", "10.0.0.1:8080"]}).hosts
    assert reach_notice(hosts) == ("Programs of the experiments could reach huggingface.co, 10.0.0.1:8080.",)
    assert reach_notice(parse({"idea": IDEA}).hosts) == ()
