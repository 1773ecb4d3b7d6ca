"""Data sets inside scikit-learn's wheel, and seeded generators of others.

Numpy reads the wheel's files: scikit-learn is not imported."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.tasks.task import LabeledData

SKLEARN_DATA = "datasets/data"


def sklearn_folder() -> Path:
    """The folder of scikit-learn's data files.

    Raises RunError(ENVIRONMENT) where scikit-learn is missing.
    """
    spec = find_spec("sklearn")  # of the package only: imports nothing
    if spec is None or not spec.submodule_search_locations:
        raise RunError(
            FailureCode.ENVIRONMENT,
            "the task's data ships with scikit-learn, which is missing. "
            "Fix: make install (or: pip install -e '.[research]')",
        )
    return Path(spec.submodule_search_locations[0]) / SKLEARN_DATA


def digits(seed: int) -> LabeledData:
    """1 797 images of handwritten digits, 8 x 8 pixels of 0 … 16."""
    return _classes(_table("digits.csv.gz"), tuple(str(each) for each in range(10)))


def wine(seed: int) -> LabeledData:
    """178 wines of three cultivars, 13 chemical measurements."""
    return _classes(_table("wine_data.csv", skip=1), ("cultivar 1", "cultivar 2", "cultivar 3"))


def breast_cancer(seed: int) -> LabeledData:
    """569 tumours, 30 measurements of cell nuclei."""
    return _classes(_table("breast_cancer.csv", skip=1), ("malignant", "benign"))


def diabetes(seed: int) -> LabeledData:
    """442 patients, 10 measurements; the label is the progression after one year."""
    x = _table("diabetes_data_raw.csv.gz", delimiter=None)
    return LabeledData(x.astype(np.float32), _table("diabetes_target.csv.gz", delimiter=None).ravel())


def _classes(table: NDArray[np.float64], names: tuple[str, ...]) -> LabeledData:
    return LabeledData(table[:, :-1].astype(np.float32), table[:, -1].astype(np.int64), names)


def _table(name: str, skip: int = 0, delimiter: str | None = ",") -> NDArray[np.float64]:
    path = sklearn_folder() / name
    if not path.is_file():
        raise RunError(
            FailureCode.ENVIRONMENT, f"scikit-learn's data file {name} is missing. Fix: reinstall scikit-learn."
        )
    data = path.read_bytes()
    lines = (gzip.decompress(data) if name.endswith(".gz") else data).decode().splitlines()
    return np.loadtxt(lines, delimiter=delimiter, skiprows=skip, dtype=np.float64)


def two_moons(seed: int) -> LabeledData:
    """1 200 noisy points of two half circles, and four columns without information."""
    rng = np.random.default_rng([seed, 11])
    rows = 1_200
    y = rng.integers(0, 2, rows)
    angle = rng.uniform(0.0, np.pi, rows)
    moons = np.stack(
        [np.where(y, 1.0 - np.cos(angle), np.cos(angle)), np.where(y, 0.5 - np.sin(angle), np.sin(angle))], axis=1
    )
    x = np.concatenate([moons + rng.normal(0.0, 0.3, moons.shape), rng.normal(0.0, 1.0, (rows, 4))], axis=1)
    return LabeledData(x.astype(np.float32), y.astype(np.int64), ("upper", "lower"))


def sparse_regression(seed: int) -> LabeledData:
    """500 rows of 60 columns; 8 of them and one product of two have an effect."""
    rng = np.random.default_rng([seed, 12])
    x = rng.normal(0.0, 1.0, (500, 60)) * np.exp(rng.uniform(-1.0, 1.0, 60))
    chosen = rng.permutation(60)[:8]
    standard = x[:, chosen] / x[:, chosen].std(axis=0)
    effects = rng.choice([-1.0, 1.0], 8) * rng.uniform(0.5, 2.0, 8)
    y = standard @ effects + 1.5 * standard[:, 0] * standard[:, 1] + rng.normal(0.0, 1.0, 500)
    return LabeledData(x.astype(np.float32), y)


def sequences(seed: int) -> LabeledData:
    """1 000 noisy series of 48 steps: sine, square or sawtooth.

    Period and phase are random, and the classes have unequal shares.
    """
    rng = np.random.default_rng([seed, 13])
    rows, steps = 1_000, 48
    y = rng.choice(3, rows, p=[0.5, 0.3, 0.2])
    position = np.arange(steps) / rng.uniform(8.0, 24.0, (rows, 1)) + rng.uniform(0.0, 1.0, (rows, 1))
    sine = np.sin(2.0 * np.pi * position)
    shapes: NDArray[Any] = np.stack([sine, np.sign(sine), 2.0 * (position % 1.0) - 1.0])
    x = shapes[y, np.arange(rows)] + rng.normal(0.0, 0.4, (rows, steps))
    return LabeledData(x.astype(np.float32), y.astype(np.int64), ("sine", "square", "sawtooth"))
