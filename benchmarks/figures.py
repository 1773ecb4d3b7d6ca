"""How a benchmark that runs alone prints what it found."""

from __future__ import annotations

import json
from collections.abc import Mapping

WIDTH = 28


def print_figures(found: Mapping[str, object], *, as_json: bool) -> None:
    """One line a figure, or one JSON object, which `python -m benchmarks` reads."""
    if as_json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:{WIDTH}} {value}")
