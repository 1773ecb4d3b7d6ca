"""The models that scripted programs train: code, settings, values to tune.

Each piece of code defines `fit(x, y, rng)`, which returns a function from rows to probabilities of the classes, or
to numbers. It records a learning curve where one is cheap.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec

from pod_worker.llm.scripted.recipe import Kind

_GRADIENT_DESCENT = '''
def fit(x, y, rng):
    """Minibatch gradient descent with momentum on a network with one hidden layer, or none."""
    target = encode(y)
    sizes = [x.shape[1], HIDDEN, target.shape[1]] if HIDDEN else [x.shape[1], target.shape[1]]
    weights = [rng.normal(0.0, np.sqrt(1.0 / rows), (rows, columns)) for rows, columns in zip(sizes, sizes[1:])]
    offsets = [np.zeros(columns) for columns in sizes[1:]]
    speeds = [np.zeros_like(each) for each in weights + offsets]
    losses, scores = [], []
    for epoch in range(EPOCHS):
        order = rng.permutation(len(x))
        for start in range(0, len(x), BATCH):
            batch = order[start : start + BATCH]
            layers = forward(x[batch], weights, offsets)
            error = (activate(layers[-1]) - target[batch]) / len(batch)
            gradients = backward(layers, error, weights)
            size = np.sqrt(sum(np.sum(each**2) for each in gradients))
            for each, speed, gradient in zip(weights + offsets, speeds, gradients):
                speed *= MOMENTUM
                speed -= RATE * (gradient / max(1.0, size) + (DECAY * each if each.ndim == 2 else 0.0))
                each += speed
        losses.append(float(loss(forward(x, weights, offsets)[-1], target)))
        scores.append(measure(decode(forward(search_x, weights, offsets)[-1]), search_y))
    curve("train_loss", range(EPOCHS), losses)
    curve("search_" + METRIC, range(EPOCHS), scores)
    return lambda rows: decode(forward(rows, weights, offsets)[-1])


def forward(x, weights, offsets):
    layers = [x]
    for position, (weight, offset) in enumerate(zip(weights, offsets)):
        out = layers[-1] @ weight + offset
        layers.append(np.maximum(out, 0.0) if position + 1 < len(weights) else out)
    return layers


def backward(layers, error, weights):
    steps, shifts = [], []
    for position in reversed(range(len(weights))):
        steps.insert(0, layers[position].T @ error)
        shifts.insert(0, error.sum(axis=0))
        error = (error @ weights[position].T) * (layers[position] > 0)
    return steps + shifts
'''

_RIDGE = '''
def fit(x, y, rng):
    """Least squares with a penalty on the size of the weights."""
    mean = y.mean()
    penalty = DECAY * len(x) * np.eye(x.shape[1])
    weights = np.linalg.solve(x.T @ x + penalty + 1e-9 * np.eye(x.shape[1]), x.T @ (y - mean))
    return lambda rows: rows @ weights + mean
'''

_NEIGHBOURS = '''
def fit(x, y, rng):
    """The mean of the nearest training rows, weighted by their inverse distance."""
    values = np.eye(CLASSES)[y] if CLASSES else y[:, None]

    def predict(rows):
        distances = (rows**2).sum(axis=1)[:, None] - 2.0 * rows @ x.T + (x**2).sum(axis=1)
        nearest = np.argsort(distances, axis=1)[:, :NEIGHBOURS]
        near = np.sqrt(np.maximum(np.take_along_axis(distances, nearest, axis=1), 0.0))
        weights = 1.0 / (near + 1e-6) ** POWER
        weights /= weights.sum(axis=1, keepdims=True)
        found = (weights[:, :, None] * values[nearest]).sum(axis=1)
        return found if CLASSES else found[:, 0]

    return predict
'''

_FOREST = """
def fit(x, y, rng):
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    kind = RandomForestClassifier if CLASSES else RandomForestRegressor
    forest = kind(
        n_estimators=1, max_depth=DEPTH or None, min_samples_leaf=LEAF, max_features=PART, warm_start=True,
        random_state=int(rng.integers(2**31)),
    )
    sizes = sorted({max(1, TREES * part // 4) for part in (1, 2, 3, 4)})
    scores = []
    for size in sizes:
        forest.set_params(n_estimators=size).fit(x, y)
        scores.append(measure(answer(forest, search_x), search_y))
    curve("search_" + METRIC, sizes, scores)
    return lambda rows: answer(forest, rows)


def answer(model, rows):
    return model.predict_proba(rows) if CLASSES else model.predict(rows)
"""

_BOOSTING = """
def fit(x, y, rng):
    from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor

    kind = GradientBoostingClassifier if CLASSES else GradientBoostingRegressor
    model = kind(
        n_estimators=ROUNDS, learning_rate=RATE, max_depth=DEPTH, subsample=PART, max_features="sqrt",
        random_state=int(rng.integers(2**31)),
    ).fit(x, y)
    staged = model.staged_predict_proba(search_x) if CLASSES else model.staged_predict(search_x)
    curve("train_loss", range(ROUNDS), [float(each) for each in model.train_score_])
    curve("search_" + METRIC, range(ROUNDS), [measure(each, search_y) for each in staged])
    return lambda rows: model.predict_proba(rows) if CLASSES else model.predict(rows)
"""

_SUPPORT_VECTORS = """
def fit(x, y, rng):
    from sklearn.svm import SVC, SVR

    kernel = "rbf" if WIDTH else "linear"
    gamma = WIDTH / x.shape[1] / max(x.var(), 1e-12) if WIDTH else "scale"
    if CLASSES:
        model = SVC(C=COST, kernel=kernel, gamma=gamma, decision_function_shape="ovr").fit(x, y)
    else:
        model = SVR(C=COST * y.std(), epsilon=0.05 * y.std(), kernel=kernel, gamma=gamma).fit(x, y)

    def predict(rows):
        if not CLASSES:
            return model.predict(rows)
        margins = model.decision_function(rows)
        margins = np.stack([-margins, margins], axis=1) if margins.ndim == 1 else margins
        return softmax(margins)

    return predict
"""

_TORCH_NETWORK = '''
def fit(x, y, rng):
    """A network with one hidden layer in torch, trained with momentum."""
    import torch

    torch.manual_seed(int(rng.integers(2**31)))
    torch.set_num_threads(1)
    inputs = torch.tensor(x, dtype=torch.float32)
    target = torch.tensor(encode(y), dtype=torch.float32)
    seen = torch.tensor(search_x, dtype=torch.float32)
    network = torch.nn.Sequential(
        torch.nn.Linear(x.shape[1], HIDDEN), torch.nn.GELU(), torch.nn.Dropout(DROPOUT),
        torch.nn.Linear(HIDDEN, target.shape[1]),
    )
    weights = list(network.parameters())
    speeds = [torch.zeros_like(each) for each in weights]
    criterion = torch.nn.CrossEntropyLoss() if CLASSES else torch.nn.MSELoss()
    losses, scores = [], []
    for epoch in range(EPOCHS):
        network.train()
        total = 0.0
        for batch in torch.randperm(len(inputs)).split(BATCH):
            value = criterion(network(inputs[batch]), target[batch])
            gradients = torch.autograd.grad(value, weights)
            with torch.no_grad():
                for each, speed, gradient in zip(weights, speeds, gradients):
                    speed.mul_(MOMENTUM).sub_(RATE * (gradient + DECAY * each))
                    each.add_(speed)
            total += float(value.detach()) * len(batch)
        network.eval()
        losses.append(total / len(inputs))
        with torch.no_grad():
            scores.append(measure(decode(network(seen).numpy().astype(np.float64)), search_y))
    curve("train_loss", range(EPOCHS), losses)
    curve("search_" + METRIC, range(EPOCHS), scores)

    def predict(rows):
        with torch.no_grad():
            return decode(network(torch.tensor(rows, dtype=torch.float32)).numpy().astype(np.float64))

    return predict
'''


@cache
def _is_installed(package: str) -> bool:
    return find_spec(package) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCode:
    title: str  # for plans: "a random forest"
    code: str
    settings: dict[str, float]
    values: dict[str, tuple[float, ...]]  # to tune
    package: str = ""  # that it imports, beside numpy
    ablations: dict[str, dict[str, float]] = field(default_factory=dict)  # label of what is removed -> settings
    kinds: tuple[Kind, ...] = ("classification", "regression")

    @property
    def is_available(self) -> bool:
        return not self.package or _is_installed(self.package)


_DESCENT_VALUES: dict[str, tuple[float, ...]] = {
    "rate": (0.03, 0.1, 0.3, 0.01),
    "epochs": (60, 15, 45),
    "batch": (16, 64, 128),
    "decay": (1e-2, 1e-4, 1e-1),
    "momentum": (0.5, 0.95, 0.0),
}
_DESCENT_ABLATIONS: dict[str, dict[str, float]] = {
    "weight decay": {"decay": 0.0},
    "momentum": {"momentum": 0.0},
    "minibatches": {"batch": 100_000},
}

MODELS: dict[str, ModelCode] = {
    "softmax": ModelCode(
        title="softmax regression",
        code=_GRADIENT_DESCENT,
        settings={"hidden": 0, "rate": 0.05, "epochs": 30, "batch": 32, "decay": 1e-3, "momentum": 0.9},
        values=_DESCENT_VALUES,
        ablations=_DESCENT_ABLATIONS,
        kinds=("classification",),
    ),
    "ridge": ModelCode(
        title="ridge regression",
        code=_RIDGE,
        settings={"decay": 0.01},
        values={"decay": (0.1, 0.001, 0.3, 1.0, 0.03)},
        ablations={"the penalty on weights": {"decay": 0.0}},
        kinds=("regression",),
    ),
    "neighbours": ModelCode(
        title="nearest neighbours",
        code=_NEIGHBOURS,
        settings={"neighbours": 5, "power": 1},
        values={"neighbours": (3, 9, 15, 1, 25), "power": (2, 0, 4)},
        ablations={"the weights by distance": {"power": 0}, "all neighbours but one": {"neighbours": 1}},
    ),
    "network": ModelCode(
        title="a network with one hidden layer",
        code=_GRADIENT_DESCENT,
        settings={"hidden": 32, "rate": 0.05, "epochs": 30, "batch": 32, "decay": 1e-4, "momentum": 0.9},
        values={"hidden": (64, 16, 96), **_DESCENT_VALUES},
        ablations={"the hidden layer": {"hidden": 0}, **_DESCENT_ABLATIONS},
    ),
    "forest": ModelCode(
        title="a random forest",
        code=_FOREST,
        settings={"trees": 40, "depth": 0, "leaf": 1, "part": 0.3},
        values={"trees": (80, 20, 60), "depth": (6, 10, 4), "leaf": (2, 4), "part": (0.15, 0.6, 1.0)},
        ablations={
            "all trees but one": {"trees": 1},
            "the choice among a part of the columns": {"part": 1.0},
            "deep trees": {"depth": 2},
        },
        package="sklearn",
    ),
    "support_vectors": ModelCode(
        title="support vectors with an RBF kernel",
        code=_SUPPORT_VECTORS,
        settings={"cost": 1.0, "width": 1.0},
        values={"cost": (3.0, 0.3, 10.0, 0.1), "width": (0.5, 2.0, 0.2, 4.0)},
        ablations={"the RBF kernel": {"width": 0.0}, "the penalty on slack": {"cost": 1000.0}},
        package="sklearn",
    ),
    "boosting": ModelCode(
        title="gradient boosting",
        code=_BOOSTING,
        settings={"rounds": 20, "rate": 0.2, "depth": 2, "part": 0.7},
        values={"rounds": (40, 10, 30), "rate": (0.1, 0.4, 0.05), "depth": (3, 1), "part": (0.5, 1.0)},
        ablations={
            "all rounds but one": {"rounds": 1},
            "row sampling": {"part": 1.0},
            "interactions": {"depth": 1},
        },
        package="sklearn",
    ),
    "torch_network": ModelCode(
        title="a torch network with one hidden layer",
        code=_TORCH_NETWORK,
        settings={
            "hidden": 64,
            "rate": 0.05,
            "epochs": 20,
            "batch": 64,
            "decay": 1e-3,
            "dropout": 0.1,
            "momentum": 0.9,
        },
        values={"hidden": (128, 32), "rate": (0.02, 0.1), "epochs": (40, 10), "dropout": (0.3, 0.0)},
        ablations={"dropout": {"dropout": 0.0}, "weight decay": {"decay": 0.0}, "momentum": {"momentum": 0.0}},
        package="torch",
    ),
}


def model_names(kind: Kind) -> list[str]:
    """Models for a kind of task whose packages are installed, the simplest first."""
    return [name for name, model in MODELS.items() if kind in model.kinds and model.is_available]
