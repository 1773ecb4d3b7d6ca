"""Scripted replies for the operations of the search: real programs.

Some have real mistakes.

A reply depends on the request's facts alone: task, parent program, error text, tried changes and seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice

from pod_worker.core.research.completion import CompletionRequest
from pod_worker.core.run import Json
from pod_worker.llm.scripted.bugs import BUGS, COMMON, NO_SUCH_MODULE, explain
from pod_worker.llm.scripted.changes import Change, ablations, drafts, improvements, new_recipe, tunings
from pod_worker.llm.scripted.models import MODELS, model_names
from pod_worker.llm.scripted.program import write_program
from pod_worker.llm.scripted.recipe import Recipe, TaskView, read_recipe, read_task

BUG_CHANCES = {"node.draft": 0.35, "node.improve": 0.15, "node.tune": 0.06, "node.ablate": 0.06}
ENDLESS_CHANCE = 0.02
CHOICES = 5  # the next change is one of so many that were not tried
LATER_CHOICES = 9  # after a rejection it is one of so many after those
INSIGHT_LIMIT = 400

Facts = Mapping[str, Json]


def draft(request: CompletionRequest) -> Json:
    task = read_task(request.facts)
    return _propose(request, task, drafts(task))


def improve(request: CompletionRequest) -> Json:
    return _from_parent(request, improvements)


def tune(request: CompletionRequest) -> Json:
    return _from_parent(request, tunings)


def ablate(request: CompletionRequest) -> Json:
    return _from_parent(request, ablations)


def _from_parent(request: CompletionRequest, repertoire: Callable[[Recipe, TaskView], Iterator[Change]]) -> Json:
    """A program without a recipe has another author.

    The scripted model then starts with a program of its own.
    """
    task = read_task(request.facts)
    recipe = _parent_recipe(request.facts)
    changes = drafts(task) if recipe is None else repertoire(replace(recipe, bug=""), task)
    return _propose(request, task, changes)


def _propose(request: CompletionRequest, task: TaskView, changes: Iterator[Change]) -> Json:
    tried = _tried(request.facts)
    rng = random.Random(f"{request.operation} {task.title} {request.facts.get('seed')} {len(tried)}")
    candidates = list(islice((change for change in changes if change.label not in tried), CHOICES + LATER_CHOICES))
    change = rng.choice(candidates[:CHOICES])
    if request.facts.get("rejected"):  # programs that are being written have the first labels
        change = rng.choice(candidates[CHOICES:])
    plan = f"{_aim(request.facts)}{change.label}: {change.reason}."
    recipe = _with_chance_of_bug(change.recipe, BUG_CHANCES[request.operation], rng)
    return {"plan": plan, "change": change.label, "code": write_program(recipe, task, plan)}


def _with_chance_of_bug(recipe: Recipe, chance: float, rng: random.Random) -> Recipe:
    draw, name = rng.random(), rng.choice(COMMON)
    if draw < ENDLESS_CHANCE:
        return replace(recipe, bug="endless")
    if draw > chance or (name == "shape_mismatch" and not recipe.scale):
        return recipe
    if name == "log_of_zero" and "compress" not in recipe.columns:
        recipe = replace(recipe, columns=(*recipe.columns, "compress"))
    return replace(recipe, bug=name)


def debug(request: CompletionRequest) -> Json:
    """Repairs what the error shows, or trains another model."""
    task = read_task(request.facts)
    recipe = _parent_recipe(request.facts)
    error = _error_text(request.facts)
    found = explain(error)
    if recipe is not None and found is not None and found == recipe.bug and not request.facts.get("rejected"):
        bug = BUGS[found]
        change = Change(bug.repair, bug.cause, replace(recipe, bug=""))
    else:
        change = _simplify(recipe, task, error, _tried(request.facts))
    plan = f"Repair: {change.label}. {change.reason[0].upper()}{change.reason[1:]}."
    return {"plan": plan, "change": change.label, "code": write_program(change.recipe, task, plan)}


def _simplify(recipe: Recipe | None, task: TaskView, error: str, tried: set[str]) -> Change:
    label = "train for a quarter of the time"
    if recipe is not None and _is_timeout(error) and recipe.bug != "endless" and label not in tried:
        shorter = {name: max(1, int(recipe.settings[name] // 4)) for name in ("epochs", "trees", "rounds")
                   if name in recipe.settings}  # fmt: skip
        changed = replace(recipe.tuned(**shorter), members=1, noise=0.0, bug="")
        return Change(label, "the program ran into its time limit", changed)
    names = [
        name for name in model_names(task.kind) if not (NO_SUCH_MODULE.search(error) and MODELS[name].package)
    ]
    for name in names:
        label = f"{MODELS[name].title} instead"
        if label not in tried and (recipe is None or name != recipe.model):
            return Change(label, "the error names no cause that a small change removes", new_recipe(name))
    return Change(f"{MODELS[names[0]].title} instead", "every other model failed as well", new_recipe(names[0]))


def _is_timeout(error: str) -> bool:
    return explain(error) == "endless"


def analyse(request: CompletionRequest) -> Json:
    node = request.facts.get("node") or {}
    score = node.get("score")
    if not isinstance(score, int | float):
        return _analyse_failure(node)
    metric = (request.facts.get("task") or {}).get("metric") or {}
    name = metric.get("name") or "score"
    before = (request.facts.get("parent") or {}).get("score")
    change = node.get("change") or "this program"
    if not isinstance(before, int | float):
        text = f"{change} gives a search {name} of {score:.4g}"
        return {
            "analysis": f"The program works: {text}.",
            "insight": _cut(f"{text}; later changes start from it."),
        }
    gain = score - before if metric.get("direction") != "lower" else before - score
    word = "better" if gain > 0 else "worse" if gain < 0 else "equal"
    text = f"{change}: search {name} {before:.4g} -> {score:.4g} ({word} by {abs(gain):.2g})"
    analysis = f"{text}. One run with one seed; a difference within the noise band says nothing."
    return {"analysis": analysis, "insight": _cut(text)}


def _analyse_failure(node: Facts) -> Json:
    error = _error_text({"parent": node})
    found = explain(error)
    outcome = str(node.get("outcome") or "no score")
    if found == "endless" and BUGS[found].edits[0][1] not in str(node.get("code")):
        text = f"{node.get('change') or 'the program'} needs more time than a node has"
    elif found is not None:
        text = f"{BUGS[found].cause}; {BUGS[found].repair}"
    else:
        text = f"{node.get('change') or 'the program'} ended without a score ({node.get('error') or outcome})"
    return {"analysis": f"The outcome is {outcome}: {text}.", "insight": _cut(text)}


def _cut(text: str) -> str:
    return text[:INSIGHT_LIMIT]


def _aim(facts: Facts) -> str:
    """The idea in the plan of a draft; later plans are about one change."""
    title = (facts.get("idea") or {}).get("Title")
    return f"For '{str(title)[:80]}': " if title and not facts.get("parent") else ""


def _parent_recipe(facts: Facts) -> Recipe | None:
    recipe = read_recipe(str((facts.get("parent") or {}).get("code") or ""))
    return recipe if recipe is not None and recipe.model in MODELS else None


def _error_text(facts: Facts) -> str:
    parent = facts.get("parent") or {}
    return "\n".join(str(parent.get(name) or "") for name in ("outcome", "error", "output"))


def _tried(facts: Facts) -> set[str]:
    """Labels of tried changes; an entry may also be the label alone."""
    entries = facts.get("tried") or []
    return {str(entry.get("change", "")) if isinstance(entry, dict) else str(entry) for entry in entries}


REPLIES: dict[str, Callable[[CompletionRequest], Json]] = {
    "node.draft": draft,
    "node.improve": improve,
    "node.debug": debug,
    "node.tune": tune,
    "node.ablate": ablate,
    "node.analyse": analyse,
}
