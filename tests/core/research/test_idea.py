from typing import Any

import pytest

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.research.idea import read_idea

IDEA: dict[str, Any] = {
    "Name": "noise_floor",
    "Title": "Does label smoothing help on small data?",
    "Short Hypothesis": "Label smoothing helps where labels are noisy.",
    "Related Work": "Szegedy et al. 2016.",
    "Abstract": "We test it.",
    "Experiments": ["train with and without", "vary the strength"],
    "Risk Factors and Limitations": ["small data"],
}


def test_an_idea_survives_the_round_trip() -> None:
    assert read_idea(read_idea(IDEA).to_json()) == read_idea(IDEA)
    assert read_idea(IDEA).to_json() == IDEA


def test_the_task_of_an_idea_is_kept() -> None:
    assert read_idea({**IDEA, "Task": "wine"}).to_json() == {**IDEA, "Task": "wine"}


def test_a_text_where_a_list_belongs_is_a_list_of_one() -> None:
    assert read_idea({**IDEA, "Experiments": "train"}).experiments == ("train",)


@pytest.mark.parametrize(
    "field", ["Title", "Short Hypothesis", "Abstract", "Experiments", "Risk Factors and Limitations"]
)
def test_a_missing_field_is_named(field: str) -> None:
    with pytest.raises(RunError, match=field) as caught:
        read_idea({name: value for name, value in IDEA.items() if name != field})
    assert caught.value.code is FailureCode.INVALID_INPUT


def test_every_problem_is_listed() -> None:
    with pytest.raises(RunError, match=r"Title.*Abstract.*Experiments\[1\]"):
        read_idea({**IDEA, "Title": " ", "Abstract": 3, "Experiments": ["a", 7]})


@pytest.mark.parametrize("value", [None, [], "idea", 3, {}])
def test_what_is_no_object_is_refused(value: Any) -> None:
    with pytest.raises(RunError):
        read_idea(value)


def test_long_texts_and_lists_are_refused() -> None:
    with pytest.raises(RunError, match=r"Abstract.*20001 characters"):
        read_idea({**IDEA, "Abstract": "a" * 20_001})
    with pytest.raises(RunError, match=r"Experiments.*51 entries"):
        read_idea({**IDEA, "Experiments": ["a"] * 51})
