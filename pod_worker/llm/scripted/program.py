"""Writes the program of a recipe: one Python file that trains a real model."""

from __future__ import annotations

from pod_worker.llm.scripted.bugs import BUGS
from pod_worker.llm.scripted.models import MODELS
from pod_worker.llm.scripted.recipe import Recipe, TaskView

_HEAD = """import json
import os
from pathlib import Path

import numpy as np

TASK, OUTPUT = Path(os.environ["TASK_DIR"]), Path(os.environ["OUTPUT_DIR"])
rng = np.random.default_rng(int(os.environ["RUN_SEED"]))
curves = []


def load(name):
    with np.load(TASK / name) as arrays:
        return {key: arrays[key] for key in arrays.files}


def curve(name, steps, values):
    steps, values = map(float, steps), map(float, values)
    curves.append({"name": name, "steps": list(steps), "values": list(values)})


train, search, hidden = load("train.npz"), load("search.npz"), load("hidden_inputs.npz")
x, y = train["x"], train["y"]
search_x, search_y, hidden_x = search["x"], search["y"], hidden["x"]
x, search_x, hidden_x = (rows.astype(np.float64) for rows in (x, search_x, hidden_x))
"""

_DROP = """
kept_columns = [column for column in range(x.shape[1]) if column not in $DROPPED]
x, search_x, hidden_x = x[:, kept_columns], search_x[:, kept_columns], hidden_x[:, kept_columns]
"""

# The keys are the recipe's names of column changes.
COLUMNS = {
    "compress": '''

def compress(rows):
    """Long tails become short ones."""
    with np.errstate(divide="raise", invalid="raise"):
        return np.arcsinh(rows)


x, search_x, hidden_x = compress(x), compress(search_x), compress(hidden_x)
''',
    "spectrum": '''

def add_spectrum(rows):
    """Strengths of the frequencies of a row, which do not depend on where a pattern starts."""
    spectrum = np.abs(np.fft.rfft(rows - rows.mean(axis=1, keepdims=True), axis=1))
    return np.concatenate([rows, spectrum, np.sort(rows, axis=1)], axis=1)


x, search_x, hidden_x = add_spectrum(x), add_spectrum(search_x), add_spectrum(hidden_x)
''',
    "squares": """

def add_squares(rows, center=x.mean(axis=0)):
    return np.concatenate([rows, (rows - center) ** 2], axis=1)


x, search_x, hidden_x = add_squares(x), add_squares(search_x), add_squares(hidden_x)
""",
    "products": """

# Products of the columns that go together with the label most.
links = np.abs(np.corrcoef(np.column_stack([x, y]), rowvar=False)[-1, :-1])
strongest = np.argsort(np.nan_to_num(links))[::-1][:8]
pairs = [(left, right) for left in strongest for right in strongest if left < right]


def add_products(rows, center=x.mean(axis=0)):
    rows_centered = rows - center
    products = [rows_centered[:, left] * rows_centered[:, right] for left, right in pairs]
    return np.column_stack([rows, *products]) if products else rows


x, search_x, hidden_x = add_products(x), add_products(search_x), add_products(hidden_x)
""",
}

_SCALE = """
mean, deviation = x.mean(axis=0), x.std(axis=0) + 1e-9
x, search_x, hidden_x = ((rows - mean) / deviation for rows in (x, search_x, hidden_x))
"""

_COMPONENTS = """
# Principal components that hold 98 % of the variance.
center = x.mean(axis=0)
_, strengths, directions = np.linalg.svd(x - center, full_matrices=False)
share = np.cumsum(strengths**2) / np.sum(strengths**2)
directions = directions[: int(np.searchsorted(share, 0.98)) + 1].T
x, search_x, hidden_x = ((rows - center) @ directions for rows in (x, search_x, hidden_x))
"""

_HELD_OUT = '''

def hold_out(y, rng):
    """A tenth of the rows; ten attempts look for rows of every class."""
    for attempt in range(10):
        order = rng.permutation(len(y))
        held, kept = order[: len(y) // 10], order[len(y) // 10 :]
        if len(np.unique(y[held])) >= CLASSES:
            break
    return held, kept


held, kept = hold_out(y, rng)
held_x, held_y, x, y = x[held], y[held], x[kept], y[kept]
'''

_FEWER_ROWS = """
fewer = rng.permutation(len(x))[: max(20, int(len(x) * $ROWS))]
x, y = x[fewer], y[fewer]
"""

_NOISE = """
# Copies of the training rows with noise: small changes of a row keep its label.
x = np.concatenate([x, x + rng.normal(0.0, $NOISE, x.shape) * x.std(axis=0)])
y = np.concatenate([y, y])
"""

_CLASSIFICATION = """

def softmax(scores):
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def encode(labels):
    return np.eye(CLASSES)[labels]


activate = decode = softmax


def loss(scores, target):
    return -np.mean(np.sum(target * np.log(softmax(scores) + 1e-12), axis=1))
"""

_REGRESSION = """
y_mean, y_deviation = y.mean(), y.std()


def encode(labels):
    return ((labels - y_mean) / y_deviation)[:, None]


def activate(scores):
    return scores


def decode(scores):
    return scores[:, 0] * y_deviation + y_mean


def loss(scores, target):
    return 0.5 * np.mean((scores - target) ** 2)
"""

_MEASURES = {
    "accuracy": "    return float(np.mean(np.argmax(outputs, axis=1) == labels))",
    "balanced_accuracy": """    guesses = np.argmax(outputs, axis=1)
    return float(np.mean([np.mean(guesses[labels == each] == each) for each in np.unique(labels)]))""",
    "macro_f1": """    guesses, values = np.argmax(outputs, axis=1), []
    for each in np.union1d(labels, guesses):
        both = np.sum((guesses == each) & (labels == each))
        values.append(2.0 * both / (np.sum(guesses == each) + np.sum(labels == each)))
    return float(np.mean(values))""",
    "log_loss": """    chosen = np.clip(outputs, 1e-6, 1.0)[np.arange(len(labels)), labels]
    return float(-np.mean(np.log(chosen)))""",
    "rmse": "    return float(np.sqrt(np.mean((outputs - labels) ** 2)))",
    "mae": "    return float(np.mean(np.abs(outputs - labels)))",
    "r2": "    return float(1.0 - np.sum((outputs - labels) ** 2) / np.sum((labels - labels.mean()) ** 2))",
}
_DEFAULT_MEASURE = {"classification": "accuracy", "regression": "rmse"}

_TRAIN = """

members = [fit(x, y, rng) for member in range(MEMBERS)]


def predict(rows):
    return np.mean([member(rows) for member in members], axis=0)


def predictions(rows):
    outputs = predict(rows)
$ANSWER
    return outputs[:, 0] if outputs.ndim == 2 and not CLASSES else outputs


np.savez(OUTPUT / "predictions.npz", search=predictions(search_x), hidden=predictions(hidden_x))
(OUTPUT / "curves.json").write_text(json.dumps(curves[:10]))
print(f"training rows {len(x)}, columns {x.shape[1]}")
print(f"held-out {METRIC}: {measure(predict(held_x), held_y):.5f}")
print(f"search {METRIC}: {measure(predict(search_x), search_y):.5f}")
"""

_PROBABILITIES = """    outputs = np.clip(outputs, 1e-4, 1.0)
    outputs = outputs / outputs.sum(axis=1, keepdims=True)"""
_SELF_REPORT = """(OUTPUT / "results.json").write_text(json.dumps({METRIC: measure(predict(search_x), search_y)}))
"""


def write_program(recipe: Recipe, task: TaskView, plan: str) -> str:
    """The whole file, with the recipe's mistake where it has one."""
    model = MODELS[recipe.model]
    parts = [f'"""{_comment(plan)}"""\n{recipe.line()}\n', _HEAD, _constants(recipe, task)]
    if recipe.dropped:
        parts.append(_DROP.replace("$DROPPED", repr(recipe.dropped)))
    parts += [code for name, code in COLUMNS.items() if name in recipe.columns]
    parts += [_SCALE] if recipe.scale else []
    parts += [_COMPONENTS] if "components" in recipe.columns else []
    parts.append(_HELD_OUT)
    parts += [_FEWER_ROWS.replace("$ROWS", f"{recipe.rows:g}")] if recipe.rows < 1.0 else []
    parts += [_NOISE.replace("$NOISE", f"{recipe.noise:g}")] if recipe.noise else []
    parts.append(_CLASSIFICATION if task.kind == "classification" else _REGRESSION)
    parts.append(_measure(task))
    parts.append(f"\n{model.code}")
    parts.append(_TRAIN.replace("$ANSWER\n", _answer(task)))
    parts += [_SELF_REPORT] if task.is_self_reported else []
    return _with_bug("".join(parts), recipe.bug)


def _comment(plan: str) -> str:
    return " ".join(plan.replace("\\", "/").replace('"', "'").split())


def _constants(recipe: Recipe, task: TaskView) -> str:
    classes = "int(max(y.max(), search_y.max())) + 1" if task.kind == "classification" else "0"
    settings = "".join(f"{name.upper()} = {value:g}\n" for name, value in sorted(recipe.settings.items()))
    return f"CLASSES = {classes}\nMETRIC = {task.metric!r}\nMEMBERS = {recipe.members}\n{settings}"


def _measure(task: TaskView) -> str:
    body = _MEASURES.get(task.metric, _MEASURES[_DEFAULT_MEASURE[task.kind]])
    return f"\n\ndef measure(outputs, labels):\n{body}\n"


def _answer(task: TaskView) -> str:
    if task.kind == "regression":
        return ""
    return f"{_PROBABILITIES}\n" if task.has_probabilities else "    outputs = np.argmax(outputs, axis=1)\n"


def _with_bug(code: str, bug: str) -> str:
    for old, new in BUGS[bug].edits if bug else ():
        if old not in code:
            raise ValueError(f"the mistake {bug} does not fit this program: {old!r} is not in it")
        code = code.replace(old, new)
    return code
