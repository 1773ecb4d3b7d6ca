"""The scripted ideas fit the schema, differ from each other, and cite only what the facts hold."""

from __future__ import annotations

from typing import Any

import pytest

from pod_worker.core.research.idea import read_idea
from pod_worker.llm.scripted.client import ScriptedClient
from pod_worker.stages.ideation.diversity import repeated_title
from pod_worker.stages.ideation.params import IdeationParams, parse
from pod_worker.stages.ideation.prompts import propose_request, reflect_request

TASKS: list[dict[str, Any]] = [
    {
        "name": "wine",
        "title": "Wine cultivars",
        "description": "d",
        "metric": "macro_f1",
        "kind": "classification",
    },
    {"name": "diabetes", "title": "Diabetes", "description": "d", "metric": "rmse", "kind": "regression"},
]
SHARED: dict[str, Any] = {"number": 0, "tasks": TASKS, "works": (), "stage": "ideation"}


def propose(params: IdeationParams, prior: list[str], **more: Any) -> Any:
    value = ScriptedClient().complete(propose_request(params, prior=prior, **(SHARED | more))).value
    return read_idea(value["idea"])


def test_twenty_ideas_differ_and_each_fits_its_task() -> None:
    params = parse({"idea": "Does regularisation help?", "title": "Regularisation"})
    ideas: list[Any] = []
    for _ in range(20):
        idea = propose(params, [each.title for each in ideas])
        assert repeated_title(idea, ideas, []) is None
        ideas.append(idea)
    assert {idea.task for idea in ideas} == {"wine", "diabetes"}
    assert all("accuracy" not in idea.short_hypothesis for idea in ideas if idea.task == "diabetes")


def test_the_hypothesis_decides_what_comes_first() -> None:
    noise = propose(parse({"idea": "Wrong training labels harm boosted trees on wine."}), [])
    assert noise.name == "label_noise_wine"
    assert (
        propose(parse({"idea": "Standardising columns of diabetes changes linear models."}), []).task == "diabetes"
    )
    moons = [{**TASKS[0], "name": "two_moons", "title": "Two moons with noise"}, *TASKS]
    about_noise = parse({"idea": "Label noise harms trees."})
    tasks = {propose(about_noise, ["prior"] * count, tasks=moons).task for count in range(6)}
    assert len(tasks) > 1, "a word that a title shares by chance chooses no task"
    other = [propose(parse({"idea": "q", "seed": seed}), []).name for seed in range(10)]
    assert len(set(other)) > 3


def test_a_refused_proposal_is_answered_with_another_one() -> None:
    params = parse({"idea": "x"})
    assert propose(params, []).title != propose(params, [], problem="it repeats another one").title


def test_reflections_end_and_cite_the_works_of_the_facts_only() -> None:
    from pod_worker.core.research.literature import Work

    params = parse({"idea": "x", "reflections": 5})
    first = propose(params, []).to_json()
    work = Work(id="s2:1", title="On smoothing", authors=("A B",), year=2016)
    values = [
        ScriptedClient()
        .complete(reflect_request(params, first, round_number=number, prior=[], **(SHARED | {"works": (work,)})))
        .value
        for number in (1, 2, 3)
    ]
    assert [value["is_final"] for value in values] == [False, True, True]
    assert all("On smoothing (2016)" in value["idea"]["Related Work"] for value in values)
    assert len(values[0]["idea"]["Experiments"]) == len(first["Experiments"]) + 1
    assert "no work is cited" in first["Related Work"]


@pytest.mark.parametrize("tasks", [[], TASKS[1:]])
def test_without_a_fitting_task_the_idea_names_none(tasks: list[Any]) -> None:
    idea = propose(parse({"idea": "Wrong labels and noise robustness of forests"}), [], tasks=tasks)
    assert idea.task in ("", "diabetes")
