"""Ports of the search beside those in `core/` for the model and the sandbox."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from pod_worker.core.research.evaluation import NodeScore


class Evaluator(Protocol):
    """Scores the result files of one node; safe for several threads."""

    def score(self, folder: Path) -> NodeScore:
        """The scores of the files that a program wrote in its node folder.

        Raises ResultRefusedError when the files are missing or cannot be scored.
        """
