"""The whole stage with the scripted model: record, ledger, recorded literature, shipped tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.payload import IdeationGenerated
from pod_worker.core.research.idea import read_idea
from pod_worker.stages.ideation.stage import stages_of, task_facts
from tests.stages.research.context import ResearchContext

PARAMS: dict[str, Any] = {
    "idea": "Gradient boosting suffers more from wrong labels than forests do.",
    "title": "Label noise",
    "hypothesis_id": "h1",
    "max_num_generations": 3,
    "model": "scripted",
}


def execute(root: Path, params: dict[str, Any], pod: str = "pod") -> tuple[ResearchContext, dict[str, Any]]:
    (stage,) = stages_of(params)
    context = ResearchContext(root, params, "ideation", pod=pod)
    return context, context.execute(stage)


def test_three_ideas_about_shipped_tasks_are_labelled_scripted(tmp_path: Path) -> None:
    context, summary = execute(tmp_path, PARAMS)
    generated = [each for each in context.events if isinstance(each, IdeationGenerated)][-1]
    assert generated.count == 3
    assert generated.is_scripted is True
    ideas = [read_idea(each) for each in generated.ideas or []]
    assert {idea.task for idea in ideas} <= {task["name"] for task in task_facts(())}
    assert ideas[0].name.startswith("label_noise")
    assert summary["is_scripted"] is True
    assert summary["literature"]["index"] == "recorded"
    assert summary["cost"]["usd"] == 0
    assert summary["cost"]["operations"]["ideation.propose"]["calls"] == 3
    assert summary["record"] is not None
    published = json.loads((context.work_dir / "ideas.json").read_text())
    assert published["is_scripted"] is True


def test_equal_parameters_give_equal_ideas(tmp_path: Path) -> None:
    found = [execute(tmp_path / name, PARAMS)[1]["titles"] for name in ("a", "b")]
    assert found[0] == found[1]


def test_another_pod_goes_on_with_the_ledger_of_the_first(tmp_path: Path) -> None:
    capped = PARAMS | {"max_calls": 4, "max_num_generations": 5}
    _, first = execute(tmp_path, capped)
    assert first["ideas"] == 1
    assert "calls" in first["ended_early"]
    _, second = execute(tmp_path, capped, pod="other")
    assert second["ideas"] == 1
    assert second["cost"]["calls"] == first["cost"]["calls"] <= 4


def test_a_task_that_does_not_exist_is_refused_before_anything_is_paid(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no task 'absent'") as caught:
        execute(tmp_path, PARAMS | {"tasks": ["absent"]})
    assert caught.value.code is FailureCode.INVALID_INPUT
