"""Programs with one shape, and programs without."""

from __future__ import annotations

import pytest

from pod_worker.search.duplicates import shape

PROGRAM = '''
"""Trains."""
import numpy as np
seed = 42
rng = np.random.default_rng(42)
model = Forest(depth=3, random_state=42)
np.random.seed(1)
def fit(x, seed: int = 0):
    """Fits."""
    return x * 2
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("seed = 42", "seed = 137"),
        ("default_rng(42)", "default_rng(7)"),
        ("random_state=42", "random_state=1"),
        ("random.seed(1)", "random.seed(2)"),
        ('"""Trains."""', ""),
        ('"""Fits."""', '"""Other."""'),
        ("import numpy as np", "import numpy as np  # arrays\n\n"),
        ("depth=3, ", "depth = 3,\n   "),
        ("x * 2", "(x * 2)"),
        ("depth=3, random_state=42", "depth=3, random_state=-42"),
    ],
)
def test_seeds_comments_layout_and_docstrings_do_not_count(old, new):
    assert old in PROGRAM
    assert shape(PROGRAM.replace(old, new)) == shape(PROGRAM)


@pytest.mark.parametrize(("old", "new"), [("depth=3", "depth=4"), ("x * 2", "x * 3"), ("Forest", "Boost")])
def test_a_change_of_the_experiment_counts(old, new):
    assert shape(PROGRAM.replace(old, new)) != shape(PROGRAM)


@pytest.mark.parametrize("text", ["def (", "x = '''", "\0", "  x\n y", "(" * 5_000, "é = 1\nprint(é"])
def test_every_text_has_a_shape(text):
    assert shape(text) == shape(text)
    assert shape(text) != shape(text + "\nnew_word")
