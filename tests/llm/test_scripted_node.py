"""The scripted model's programs: real training, real mistakes that it repairs, and no change twice."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest

from pod_worker.core.research.completion import ChatMessage, CompletionRequest
from pod_worker.llm.scripted import bugs, changes
from pod_worker.llm.scripted.client import ScriptedClient
from pod_worker.llm.scripted.models import MODELS
from pod_worker.llm.scripted.program import COLUMNS, write_program
from pod_worker.llm.scripted.recipe import Recipe, TaskView, read_recipe, read_task
from pod_worker.tasks.catalogue import find_task
from pod_worker.tasks.curves import read_curves
from pod_worker.tasks.prepare import prepare_task
from tests.tasks.programs import Programs, Trial

PROPOSAL = {
    "type": "object",
    "properties": {name: {"type": "string", "minLength": 1} for name in ("plan", "change", "code")},
    "required": ["plan", "change", "code"],
    "additionalProperties": False,
}
DIGITS = {
    "name": "digits", "title": "Digits", "kind": "classification", "features": 64, "classes": [str(n) for n in range(10)],
    "metric": {"name": "accuracy", "direction": "higher", "unit": ""},
}  # fmt: skip
PRICES = {
    "title": "Prices",
    "kind": "regression",
    "features": 10,
    "metric": {"name": "rmse", "direction": "lower"},
}
TASK = TaskView(title="Digits", kind="classification", metric="accuracy", features=64, is_self_reported=False)


def ask(operation: str, schema: dict[str, Any] | None = PROPOSAL, **facts: Any) -> Any:
    facts.setdefault("task", DIGITS)
    message = ChatMessage("user", "question")
    answer = ScriptedClient().complete(
        CompletionRequest(operation=operation, messages=(message,), schema=schema, facts=facts)
    )
    return answer.value


def parent(recipe: Recipe, **facts: Any) -> dict[str, Any]:
    return {
        "node_id": "n1",
        "plan": "p",
        "code": write_program(recipe, TASK, "p"),
        "score": 0.9,
        "output": "",
        **facts,
    }


@pytest.mark.parametrize("operation", ["node.draft", "node.improve", "node.tune", "node.ablate"])
@pytest.mark.parametrize("task", [DIGITS, PRICES], ids=["classes", "numbers"])
def test_a_change_is_never_proposed_twice(operation, task) -> None:
    model = "network" if task is DIGITS else "ridge"
    start = parent(replace(changes.new_recipe(model), columns=("squares",), noise=0.1))
    tried: list[dict[str, Any]] = []
    for _ in range(60):
        answer = ask(operation, task=task, parent=start, tried=tried, seed=4)
        assert answer["change"] not in [entry["change"] for entry in tried]
        ast.parse(answer["code"])
        tried.insert(0, {"plan": answer["plan"], "change": answer["change"], "outcome": "scored", "score": 0.5})


@pytest.mark.parametrize("operation", ["node.draft", "node.improve", "node.tune", "node.ablate"])
def test_equal_facts_give_equal_programs_and_a_rejected_one_gives_another(operation) -> None:
    facts: dict[str, Any] = {"parent": parent(changes.new_recipe("forest")), "tried": [], "seed": 11}
    first = ask(operation, **facts)
    assert ask(operation, **facts) == first
    assert ask(operation, **facts, rejected="this program was executed before")["change"] != first["change"]
    assert len({ask(operation, **facts | {"seed": seed})["change"] for seed in range(10)}) > 1


def test_some_drafts_have_mistakes_and_an_endless_loop_is_rare() -> None:
    found = [read_recipe(ask("node.draft", seed=seed)["code"]).bug for seed in range(300)]
    assert {name for name in found if name} == set(bugs.BUGS)
    assert 60 < sum(bool(name) for name in found) < 150
    assert found.count("endless") < 20


def test_a_program_of_another_author_is_answered_with_a_program_of_our_own() -> None:
    foreign = {
        "node_id": "n",
        "code": "print('hello')\n# recipe: [1]\n",
        "score": 0.1,
        "error": "KeyError: 'labels'",
    }
    for operation in ("node.improve", "node.tune", "node.ablate", "node.debug"):
        assert read_recipe(ask(operation, parent=foreign, tried=[], seed=1)["code"]) is not None


@pytest.mark.parametrize("bug", bugs.BUGS)
def test_a_mistake_is_repaired_only_when_its_error_is_shown(bug) -> None:
    errors = {
        "wrong_key": "KeyError: 'labels'",
        "shape_mismatch": "ValueError: operands could not be broadcast together with shapes (1078,64) (1078,)",
        "log_of_zero": "FloatingPointError: divide by zero encountered in log",
        "no_output": "missing: out/predictions.npz is missing: the program did not write it",
        "extra_axis": "schema: array 'search' has shape (359, 1); expected (359,)",
        "wrong_import": "ImportError: cannot import name 'ridge_solve' from 'numpy.linalg'",
        "endless": "time: the program was ended after 60 seconds",
    }
    recipe = replace(changes.new_recipe("network"), columns=("compress",), bug=bug)
    repaired = ask("node.debug", parent=parent(recipe, error=errors[bug], outcome="buggy"), tried=[], seed=1)
    assert read_recipe(repaired["code"]) == replace(recipe, bug="")
    assert repaired["change"] == bugs.BUGS[bug].repair
    blind = ask("node.debug", parent=parent(recipe, error="ValueError: something else"), tried=[], seed=1)
    assert read_recipe(blind["code"]).model != "network"


def test_errors_without_a_known_cause_lead_to_other_models() -> None:
    tried: list[str] = []
    start = parent(
        changes.new_recipe("forest"), error="ModuleNotFoundError: No module named 'sklearn'", outcome="buggy"
    )
    for _ in range(3):
        answer = ask("node.debug", parent=start, tried=tried, seed=1)
        assert not MODELS[read_recipe(answer["code"]).model].package
        tried.append(answer["change"])
    assert len(set(tried)) == 3
    slow = parent(
        changes.new_recipe("network"), error="time: the program was ended after 60 seconds", outcome="timed_out"
    )
    assert read_recipe(ask("node.debug", parent=slow, tried=[], seed=1)["code"]).settings["epochs"] == 7
    again = ask("node.debug", parent=slow, tried=["train for a quarter of the time"], seed=1)
    assert read_recipe(again["code"]).model != "network"


def test_an_analysis_compares_with_the_parent_in_the_metrics_direction() -> None:
    def analyse(**facts: Any) -> Any:
        return ask("node.analyse", schema={"type": "object", "required": ["analysis", "insight"]}, **facts)

    facts = {"node": {"change": "decay = 0.1", "score": 2.0, "outcome": "scored"}, "parent": {"score": 3.0}}
    assert "3 -> 2 (better by 1)" in analyse(task=PRICES, **facts)["insight"]
    assert "3 -> 2 (worse by 1)" in analyse(task=DIGITS, **facts)["insight"]
    assert "accuracy of 2" in analyse(task=DIGITS, node=facts["node"])["insight"]
    failed = {"change": "x", "score": None, "outcome": "buggy", "error": "KeyError: 'labels'"}
    assert "no array 'labels'" in analyse(node=failed)["insight"]
    slow = {"change": "average 5 fits", "score": None, "outcome": "timed_out", "error": "", "code": "pass"}
    assert "average 5 fits needs more time" in analyse(node=slow)["insight"]
    long = {"change": "x" * 900, "score": None, "outcome": "buggy", "error": "e" * 900}
    assert len(analyse(node=long)["insight"]) <= 400


def test_ablations_take_components_away() -> None:
    recipe = replace(changes.new_recipe("network"), columns=("squares", "spectrum"), members=5, noise=0.1)
    found = {change.label: change.recipe for change in islice(changes.ablations(recipe, TASK), 20)}
    assert found["without the hidden layer"].settings["hidden"] == 0
    assert found["without the spectrum"].columns == ("squares",)
    assert found["without averaging"].members == 1
    assert found["without noisy copies"].noise == 0.0
    assert not found["without standardised columns"].scale
    assert found["with half of the training rows"].rows == 0.5
    assert found["without column 0"].dropped == (0,)
    assert all(write_program(each, TASK, "p") != write_program(recipe, TASK, "p") for each in found.values())


# ── real executions ─────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def programs(code_runner, open_folder) -> dict[str, Programs]:
    root = open_folder / "scripted"
    root.mkdir()
    root.chmod(0o711)
    names = ("digits", "breast_cancer", "sparse_regression")
    tasks = {name: prepare_task(find_task(name), 7, root / name) for name in names}
    return {name: Programs(code_runner, prepared, root) for name, prepared in tasks.items()}


def execute(programs: Programs, recipe: Recipe, seed: int = 1, wall_seconds: float = 60.0) -> Trial:
    view = read_task({"task": programs.prepared.facts})
    return programs.run(write_program(recipe, view, "p"), seed, wall_seconds)


def error_of(trial: Trial) -> str:
    return trial.refusal.message if trial.result.is_ok and trial.refusal else trial.result.output


@pytest.mark.parametrize("model", [name for name in MODELS if name not in ("torch_network", "ridge")])
def test_every_model_learns_the_digits(model, programs) -> None:
    trial = execute(programs["digits"], changes.new_recipe(model))
    assert trial.result.is_ok, trial.result.output
    assert trial.hidden > 0.85
    assert trial.result.cpu_seconds < 2.0
    found = read_curves(trial.folder)
    assert found.problem == ""
    assert f"search accuracy: {trial.score.search:.5f}" in trial.result.output


@pytest.mark.slow  # the server of these tests has no torch: its import takes seconds
def test_the_torch_network_learns_the_digits(programs, training_libraries) -> None:
    trial = execute(programs["digits"], changes.new_recipe("torch_network"))
    assert trial.result.is_ok, trial.result.output
    assert trial.hidden > 0.9
    assert [curve.name for curve in read_curves(trial.folder).curves] == ["train_loss", "search_accuracy"]


@pytest.mark.parametrize("model", ["ridge", "network", "forest"])
def test_numbers_are_predicted(model, programs) -> None:
    trial = execute(programs["sparse_regression"], changes.new_recipe(model))
    assert trial.result.is_ok, trial.result.output
    assert trial.hidden > 0.2


def test_probabilities_are_predicted_where_the_metric_needs_them(programs) -> None:
    trial = execute(programs["breast_cancer"], changes.new_recipe("support_vectors"))
    assert trial.result.is_ok, trial.result.output
    assert trial.hidden < 0.5


def test_every_component_runs_and_changes_the_score(programs) -> None:
    start = changes.new_recipe("network").tuned(epochs=3)
    everything = replace(start, columns=(*COLUMNS, "components"), members=2, noise=0.1, rows=0.5, dropped=(0, 3))
    trial = execute(programs["digits"], everything)
    assert trial.result.is_ok, trial.result.output
    assert trial.score.search != execute(programs["digits"], start).score.search


def test_another_seed_gives_another_score(programs) -> None:
    scores = {
        execute(programs["sparse_regression"], changes.new_recipe("ridge"), seed).score.search
        for seed in (1, 2, 3)
    }
    assert len(scores) == 3


@pytest.mark.parametrize("bug", bugs.BUGS)
def test_a_mistake_really_fails_and_its_repair_really_works(bug, programs) -> None:
    digits = programs["digits"]
    recipe = replace(changes.new_recipe("softmax").tuned(epochs=5), columns=("compress",), bug=bug)
    trial = execute(digits, recipe, wall_seconds=2.0 if bug == "endless" else 60.0)
    assert trial.score is None
    error = "time: the program was ended after 2 seconds" if bug == "endless" else error_of(trial)
    facts = parent(recipe, error=error, outcome="buggy")
    answer = ask("node.debug", task=digits.prepared.facts, parent=facts, tried=[], seed=1)
    repaired = digits.run(answer["code"])
    assert repaired.score is not None, repaired.result.output


def test_a_self_reported_task_gets_a_result_file(programs) -> None:
    facts = programs["digits"].prepared.facts | {"is_self_reported": True}
    view = read_task({"task": facts | {"metric": {"name": "speed", "direction": "higher"}}})
    trial = programs["digits"].run(write_program(changes.new_recipe("neighbours"), view, "p"))
    assert json.loads((trial.folder / "out" / "results.json").read_text())["speed"] > 0.9
