"""The page's scripts under node: the axes on any numbers, and the run page on values that other programs wrote."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pod_worker.control.pages.routes import FOLDER

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="needs node")
HERE = Path(__file__).parent


def run_node(script: str, *words: str) -> Any:
    assert NODE is not None
    command = [NODE, "--input-type=module", "--max-old-space-size=200", "-e", script, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=FOLDER)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "values",
    [
        [0.3, 0.30000000000000004],  # an endless loop that took all memory
        [1, 1.0000000000000002],
        [2**63, 2**63 + 2048],
        [-(2**53), -(2**53) + 1],
        [0, 5e-324],
        [1e308, -1e308],
        [5, 5],
        [0],
        [],
        [None, "x", 3],
        [1e-300, 1e300],
        [1.8e9, 1.8e9 + 60],
    ],
)
def test_axes_of_any_numbers_are_short_and_inside(values: list[Any]) -> None:
    low, high, ticks = run_node(
        "import { range, ticks } from './axis.js';"
        "const [low, high] = range(JSON.parse(process.argv[1]), 0.06);"
        "console.log(JSON.stringify([low, high, ticks(low, high, 5)]));",
        json.dumps(values),
    )
    assert low < high
    assert len(ticks) <= 20
    assert ticks == sorted(set(ticks))
    assert all(low <= tick <= high * (1 + 1e-6) + 1e-300 for tick in ticks)


VALUES: list[Any] = [None, 7, "x", [], {"a": {"b": [None]}}, True, 1e308]


def test_the_run_page_shows_documents_of_any_form() -> None:
    """A document without a status, or an event whose type is no string, stopped the page."""
    script = (HERE / "run_page.mjs").read_text()
    problems = run_node(script, str(FOLDER), json.dumps(VALUES))
    assert problems == []
