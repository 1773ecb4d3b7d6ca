"""What the scripted model drafts, improves, tunes and ablates.

Each generator yields useful changes first and then variations without end, so a search never runs out of changes
that were not tried.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, combinations, count, zip_longest

from pod_worker.llm.scripted.models import MODELS, model_names
from pod_worker.llm.scripted.recipe import Recipe, TaskView

SPECTRUM_COLUMNS = 16  # fewer columns are no series
_COLUMN_CHANGES = {
    "squares": ("add squared columns", "a label may depend on the distance from a mean"),
    "products": ("add products of strong columns", "two columns may act together"),
    "components": ("project to principal components", "directions of little variance may be noise"),
    "compress": ("compress long tails", "few large values may dominate a column"),
    "spectrum": ("add the spectrum of each row", "a pattern may start anywhere in a row"),
}
_COLUMN_NAMES = {
    "squares": "squared columns",
    "products": "products of columns",
    "components": "the projection to components",
    "compress": "the compression of tails",
    "spectrum": "the spectrum",
}
AVERAGED = 5


@dataclass(frozen=True, slots=True)
class Change:
    label: str  # short; compared with the labels of earlier changes
    reason: str
    recipe: Recipe


def new_recipe(model: str, scale: bool = True) -> Recipe:
    return Recipe(model=model, settings=dict(MODELS[model].settings), scale=scale)


def drafts(task: TaskView) -> Iterator[Change]:
    names = model_names(task.kind)
    for scale, text in ((True, "standardised"), (False, "raw")):
        for name in names:
            title = MODELS[name].title
            yield Change(f"{title} on {text} columns", f"{title} is a plain baseline", new_recipe(name, scale))
    for hidden in count(8, 8):
        recipe = new_recipe("network").tuned(hidden=hidden)
        yield Change(f"a network with {hidden} hidden units", "its size may suit the data", recipe)


def improvements(recipe: Recipe, task: TaskView) -> Iterator[Change]:
    if not recipe.scale:
        reason = "columns of different scale have unequal weight"
        yield Change("standardise every column", reason, replace(recipe, scale=True))
    for name, (label, reason) in _COLUMN_CHANGES.items():
        is_series = task.features >= SPECTRUM_COLUMNS
        if name not in recipe.columns and (name != "spectrum" or is_series):
            yield Change(label, reason, replace(recipe, columns=(*recipe.columns, name)))
    if recipe.members == 1:
        reason = "averaging fits of different seeds lowers their variance"
        yield Change(f"average {AVERAGED} fits", reason, replace(recipe, members=AVERAGED))
    if not recipe.noise:
        reason = "noise keeps a model from learning single rows"
        yield Change("add noisy copies of rows", reason, replace(recipe, noise=0.1))
    for name in model_names(task.kind):
        if name != recipe.model:
            title = MODELS[name].title
            changed = replace(recipe, model=name, settings=dict(MODELS[name].settings))
            yield Change(f"switch to {title}", f"{title} has other limits than the current model", changed)
    for step in count(1):
        noise = round(0.02 * step, 2)
        yield Change(
            f"noisy copies of deviation {noise:g}", "the best amount is unknown", replace(recipe, noise=noise)
        )


def tunings(recipe: Recipe, task: TaskView) -> Iterator[Change]:
    values = {
        name: [value for value in found if value != recipe.settings.get(name)]
        for name, found in MODELS[recipe.model].values.items()
    }
    rounds = zip_longest(*([(name, value) for value in found] for name, found in values.items()))
    first = next(iter(values))
    current = recipe.settings[first]
    endless = (
        (first, current + step if isinstance(current, int) else current * (1 + step / 10)) for step in count(1)
    )
    for entry in chain(chain.from_iterable(rounds), endless):
        if entry is not None:
            name, value = entry
            label = f"{name} = {value:g}"
            yield Change(label, f"{name} was {recipe.settings.get(name, 0):g}", recipe.tuned(**{name: value}))


def ablations(recipe: Recipe, task: TaskView) -> Iterator[Change]:
    for label, changed in _removable(recipe):
        yield Change(f"without {label}", f"the difference is the contribution of {label}", changed)
    if recipe.rows == 1.0:
        reason = "the difference shows whether more rows would help"
        yield Change("with half of the training rows", reason, replace(recipe, rows=0.5))
    for label, dropped in _columns_to_drop(task.features):
        yield Change(f"without {label}", "they may carry no information", replace(recipe, dropped=dropped))


def _columns_to_drop(features: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    half = features // 2
    if half > 1:
        yield "every second column", tuple(range(1, features, 2))
        yield "the first half of the columns", tuple(range(half))
        yield "the last half of the columns", tuple(range(half, features))
    for column in range(features):
        yield f"column {column}", (column,)
    for size in range(2, features):
        for dropped in combinations(range(features), size):
            yield f"columns {', '.join(map(str, dropped))}", dropped


def _removable(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    if recipe.scale:
        yield "standardised columns", replace(recipe, scale=False)
    for name in recipe.columns:
        yield _COLUMN_NAMES[name], replace(recipe, columns=tuple(each for each in recipe.columns if each != name))
    for label, settings in MODELS[recipe.model].ablations.items():
        if any(recipe.settings.get(name) != value for name, value in settings.items()):
            yield label, recipe.tuned(**settings)
    if recipe.members > 1:
        yield "averaging", replace(recipe, members=1)
    if recipe.noise:
        yield "noisy copies", replace(recipe, noise=0.0)
