"""Mistakes that scripted programs make, and what shows each of them.

A repair is found from the error that the program really caused, not from the recipe: an error that no mistake
explains is answered with a simpler model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

NO_SUCH_MODULE = re.compile(r"No module named '(sklearn|torch)")


@dataclass(frozen=True, slots=True)
class Bug:
    """Edits of a correct program: what stands there, and what is written instead."""

    edits: tuple[tuple[str, str], ...]
    shows: re.Pattern[str]  # in outcome, error and output of the program
    cause: str
    repair: str  # the label of the change


BUGS: dict[str, Bug] = {
    "wrong_key": Bug(
        (('y = train["x"], train["y"]', 'y = train["x"], train["labels"]'),),
        re.compile(r"KeyError: ['\"]?labels"),
        "train.npz has no array 'labels'; the labels are in 'y'",
        "read the labels from y",
    ),
    "shape_mismatch": Bug(
        (
            (
                "mean, deviation = x.mean(axis=0), x.std(axis=0) + 1e-9",
                "mean, deviation = x.mean(axis=1), x.std(axis=1) + 1e-9",
            ),
        ),
        re.compile(r"could not be broadcast together"),
        "mean and deviation were taken over the columns instead of the rows",
        "take mean and deviation over the rows",
    ),
    "log_of_zero": Bug(
        (("return np.arcsinh(rows)", "return np.log(rows)"),),
        re.compile(r"(divide by zero|invalid value) encountered in log"),
        "the logarithm of zero or of a negative value is not a number",
        "replace the logarithm by arcsinh",
    ),
    "no_output": Bug(
        (('OUTPUT / "predictions.npz"', 'OUTPUT / "prediction.npz"'),),
        re.compile(r"predictions\.npz is missing"),
        "the predictions were saved under another file name",
        "save predictions.npz",
    ),
    "extra_axis": Bug(
        (("return outputs[:, 0] if outputs.ndim == 2 and not CLASSES else outputs", "return outputs[:, None]"),),
        re.compile(r"has shape \(.*expected \("),
        "the predictions have one axis too many",
        "remove the extra axis of the predictions",
    ),
    "wrong_import": Bug(
        (("import numpy as np\n", "import numpy as np\nfrom numpy.linalg import ridge_solve\n"),),
        re.compile(r"cannot import name 'ridge_solve'"),
        "numpy.linalg has no function ridge_solve, and the program does not need it",
        "remove the import of ridge_solve",
    ),
    "endless": Bug(
        (
            ("for attempt in range(10):", "while True:"),
            ("if len(np.unique(y[held])) >= CLASSES:", "if len(np.unique(y[held])) > len(y):"),
        ),
        re.compile(r"timed_out|program was ended after"),
        "the loop that looks for held-out rows never ends",
        "look for held-out rows ten times at most",
    ),
}
# Chosen by chance; the endless loop costs the whole time limit of a node and is rare.
COMMON = tuple(name for name in BUGS if name != "endless")


def explain(error: str) -> str | None:
    """The mistake that an error shows."""
    return next((name for name, bug in BUGS.items() if bug.shows.search(error)), None)
