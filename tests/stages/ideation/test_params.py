"""What is wrong with a request is said before anything is paid."""

from __future__ import annotations

from typing import Any

import pytest

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.research.idea import Idea
from pod_worker.stages.ideation.diversity import repeated_title
from pod_worker.stages.ideation.params import complete


def test_an_idea_alone_is_enough() -> None:
    found = complete({"idea": "Smoothing helps."})
    assert (found["reflections"], found["max_num_generations"], found["model"]) == (3, 5, "default")
    assert complete(found) == found


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({}, "'idea' is missing"),
        ({"idea": ""}, "'idea' is ''"),
        ({"idea": " \n"}, "'idea' is empty"),
        ({"idea": "x" * 20_001}, "'idea' is"),
        ({"idea": "x", "reflections": 0}, "'reflections' is 0"),
        ({"idea": "x", "reflections": 11}, "'reflections' is 11"),
        ({"idea": "x", "max_num_generations": 21}, "'max_num_generations' is 21"),
        ({"idea": "x", "reflection": 3}, "did you mean 'reflections'"),
        ({"idea": "x", "max_usd": float("nan")}, "'max_usd' is nan"),
        ({"idea": "x", "literature": "google"}, "'literature' is 'google'"),
        ({"reflections": "many", "seed": -1}, "'idea' is missing.*'reflections' is 'many'.*'seed' is -1"),
    ],
    ids=str,
)
def test_every_problem_is_named(params: dict[str, Any], reason: str) -> None:
    with pytest.raises(RunError, match=reason) as caught:
        complete(params)
    assert caught.value.code is FailureCode.INVALID_INPUT


def idea(title: str, hypothesis: str = "h") -> Idea:
    return Idea(title=title, short_hypothesis=hypothesis, abstract="a", experiments=("e",), risks=("r",))


@pytest.mark.parametrize(
    ("one", "other", "is_repeat"),
    [
        (idea("Label smoothing", "a b"), idea("Smoothing: LABEL", "c d"), True),
        (idea("Label smoothing", "a b"), idea("Depth of networks", "c d"), False),
        (idea("One", "noise hurts deep nets"), idea("Two", "Deep nets: noise hurts!"), True),
        (idea("Café models", "a"), idea("cafe models", "b"), True),
        (idea("标签平滑", "一"), idea("标签平滑", "二"), True),
        (idea("标签平滑", "一"), idea("网络深度", "二"), False),
    ],
)
def test_words_count_and_not_their_order_case_or_accents(one: Idea, other: Idea, is_repeat: bool) -> None:
    assert (repeated_title(one, [other], []) is not None) == is_repeat


def test_a_title_alone_is_compared_too() -> None:
    assert repeated_title(idea("Label smoothing"), [], ["label  SMOOTHING"]) == "label  SMOOTHING"
    assert repeated_title(idea("Label smoothing"), [], ["Something else"]) is None
